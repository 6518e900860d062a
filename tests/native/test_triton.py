"""The Triton engine: how it is chosen, and its cases (triton_cases.py) in a process of their own.

Whether Triton interprets is settled when it is first imported, which another test may have done: hence the process.
"""

from __future__ import annotations

import pathlib
import re
from types import ModuleType

import pytest
import torch

from sggp.errors import InputError
from sggp.native import engine, engines, reference, triton
from sggp.native.families import FAMILIES
from sggp.native.library import NativeError
from sggp.native.triton import host
from tests.scripts import Scripts

HERE = pathlib.Path(__file__).parent
needs_triton = pytest.mark.skipif(not triton.available(), reason="Triton is not installed")


@needs_triton
def test_cases_and_the_properties_of_every_engine(scripts: Scripts) -> None:
    """On the GPU or in the interpreter all of them pass, and of either file there are some.

    The properties are those of test_engines.py, whose catalogue has a row for Triton in a process that interprets it:
    there in float32, for the cases have both precisions.
    """
    interpret = "0" if torch.cuda.is_available() else "1"
    files = (HERE / "triton_cases.py", HERE / "test_engines.py")
    plugins = ("-p", "no:cacheprovider", "-p", "tests.native.quick_interpreter")
    command = ("-m", "pytest", "-v", *plugins, "-k", "triton and not (float64 and interpreted)", *files)
    found = scripts.run(*command, OMP_NUM_THREADS="1", TRITON_INTERPRET=interpret)
    assert found.returncode == 0, found.stdout + found.stderr
    for file in files:
        assert re.search(rf"{file.name}::\S+ PASSED", found.stdout)
    assert "SKIPPED" not in found.stdout


@needs_triton
@pytest.mark.slow
def test_every_kernel_compiles_without_a_gpu(scripts: Scripts, tmp_path: pathlib.Path) -> None:
    found = scripts.run(HERE / "triton_compile.py", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert found.returncode == 0, found.stdout + found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 2 * (len(FAMILIES) + 2 * (5 + 3 + 8))
    assert not [line for line in lines if "tf32" in line or "lg2.approx" in line]


def fake(name: str) -> object:
    return object() if name == "triton" else None


def test_a_cuda_device_gets_this_engine_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.importlib.util, "find_spec", fake)
    monkeypatch.setenv("SGGP_TRITON", "1")
    for dtype in (torch.float32, torch.float64):
        assert engine("cuda:1", dtype) is engines.TRITON
    assert engine("cuda", torch.float16) is engines.TORCH
    assert engine("cpu", torch.float32) is not engines.TRITON
    assert engines.TRITON.stationary_block is triton.stationary_block


def test_this_engine_is_opt_in(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(host.importlib.util, "find_spec", fake)
    monkeypatch.delenv("SGGP_TRITON", raising=False)
    engines._said.clear()
    for _ in range(3):
        assert engine("cuda", torch.float32) is engines.TORCH
    (said,) = [record.message for record in caplog.records]
    assert "SGGP_TRITON=1" in said


def test_without_triton_cuda_tensors_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SGGP_TRITON", "1")
    engines._said.clear()
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    host.kernels.cache_clear()
    assert not triton.available()
    assert "not installed" in triton.unavailable_reason()
    assert engine("cuda", torch.float32) is engines.TORCH
    assert [record for record in caplog.records if "not installed" in record.message]
    with pytest.raises(NativeError, match=r"sggp\.native\.reference"):
        host.kernels()


@needs_triton
def test_choosing_this_engine_does_not_import_triton(scripts: Scripts, tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, torch; from sggp.native import engine; e = engine('cuda', torch.float32); "
        "assert e.name == 'Triton', e; assert 'triton' not in sys.modules"
    )
    (tmp_path / "chosen.py").write_text(code)
    found = scripts.run(tmp_path / "chosen.py", SGGP_TRITON="1")
    assert found.returncode == 0, found.stderr


@needs_triton
def test_tensors_on_the_cpu_are_refused_outside_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "interpreted", lambda: False)
    a = torch.zeros(2, 3)
    with pytest.raises(InputError, match="TRITON_INTERPRET=1"):
        triton.stationary_block(a, a, reference.Profile("rbf"))
    assert isinstance(triton, ModuleType)

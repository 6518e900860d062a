"""The C++ engine among threads, after a fork, and over many calls."""

from __future__ import annotations

import ctypes
import os
import pathlib
import re
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from sggp.errors import InputError
from sggp.native import ceilings, cpu, library, neighbours
from sggp.native.cpu_tanimoto import small_tanimoto
from tests.native.test_cpu import cloud, needs_library, profile_of


def newer_functions(n: int = 60) -> list[torch.Tensor]:
    """What sparse factors, searches and small blocks give on fixed rows."""
    points = cloud(n, 3, 1.0, torch.float64, 5)
    near = neighbours.nearest(points.float(), points.float(), 4)
    own = near.flip(1).contiguous()
    values = neighbours.sparse_columns(
        points,
        profile_of("matern32"),
        torch.full((n,), 0.1, dtype=torch.float64),
        cloud(n, 2, 0.1, torch.float64, 6),
        own,
        torch.ones(n, 4, dtype=torch.bool),
    )
    low_rank, weight = cloud(n, 2, 0.1, torch.float32, 6), torch.ones(n)
    counts = torch.randint(0, 3, (n, 5, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return [
        near,
        values,
        neighbours.max_min_order(points.float()),
        neighbours.residual_scores(points, profile_of("rbf"), low_rank, weight, near[:, 0], near),
        neighbours.sparse_square(own, values, points),
        small_tanimoto(counts),
    ]


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@needs_library
def test_several_python_threads_at_once() -> None:
    a, b = cloud(150, 6, 1.0, torch.float32, 0), cloud(1500, 6, 1.0, torch.float32, 1)
    v = torch.randn(1500, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.randint(0, 4, (60, 128), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    profile = profile_of("matern32")
    expected = cpu.stationary_matmul(a, b, v, profile), cpu.tanimoto_block(counts, counts)
    newer = newer_functions()
    failures: list[str] = []

    def work() -> None:
        for _ in range(20):
            found = cpu.stationary_matmul(a, b, v, profile), cpu.tanimoto_block(counts, counts)
            if not same([*found, *newer_functions()], [*expected, *newer]):
                failures.append("differs")

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_library
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says where libraries are")
@pytest.mark.skipif(
    "OpenMP" not in torch.__config__.parallel_info(), reason="this torch is built without OpenMP"
)
def test_the_runtime_of_torch_is_found() -> None:
    assert library.openmp_team() is not None


@needs_library
@pytest.mark.skipif(sys.platform == "win32", reason="an engine for Windows takes no team")
def test_the_work_is_done_by_the_team_that_is_given(two_threads) -> None:
    """Threads of its own would compete with torch's, which spin for a while after every operation."""
    asked = []

    @ctypes.CFUNCTYPE(
        None, ctypes.CFUNCTYPE(None, ctypes.c_void_p), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    )
    def alone(work, data, threads, flags):
        asked.append(threads)
        work(data)

    a = cloud(500, 4, 1.0, torch.float32, 0)
    expected = cpu.stationary_block(a, a, profile_of("matern52"))
    library.library().sggp_use_team(ctypes.cast(alone, ctypes.c_void_p))
    try:
        assert torch.equal(cpu.stationary_block(a, a, profile_of("matern52")), expected)
    finally:
        library.library().sggp_use_team(library.openmp_team())
    assert asked == [2] * len(asked) != []


@needs_library
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says where libraries are")
def test_whose_threads_they_are_changes_nothing(two_threads) -> None:
    a = cloud(500, 4, 1.0, torch.float32, 0)
    expected = [cpu.stationary_block(a, a, profile_of("matern52")), *newer_functions(200)]
    library.library().sggp_use_team(None)
    try:
        assert same([cpu.stationary_block(a, a, profile_of("matern52")), *newer_functions(200)], expected)
    finally:
        library.library().sggp_use_team(library.openmp_team())


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_too(two_threads) -> None:
    """The engine does; torch's own operations may wait for ever there, so the child compares by numpy."""
    a = cloud(400, 4, 1.0, torch.float32, 0)
    profile = profile_of("matern52")
    expected = [cpu.stationary_block(a, a, profile), *newer_functions(200)]
    child = os.fork()
    if child == 0:
        good = False
        try:
            found = [cpu.stationary_block(a, a, profile), *newer_functions(200)]
            good = all((x.numpy() == y.numpy()).all() for x, y in zip(found, expected, strict=True))
        finally:
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def resident_bytes() -> int:
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc on this system")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def many_calls(count: int) -> None:
    a, b, v = (cloud(n, 5, 1.0, torch.float32, n) for n in (20, 300, 300))
    counts = torch.randint(0, 3, (20, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    dense = torch.full((20, 64), 3, dtype=torch.uint8)
    profile = profile_of("rbf")
    works = [
        work.call for name, work in ceilings.works(size=1e-3).items() if name.startswith(("tile", "bit"))
    ]
    for _ in range(count):
        newer_functions(20)
        for work in works:
            work()
        cpu.stationary_block(a, b, profile)
        cpu.stationary_matmul(a, b, v, profile)
        cpu.stationary_gradient(a, b, a, b, profile)
        cpu.tanimoto_block(counts, dense)
        cpu.thermometer(dense, torch.ones(dense.shape[1]))


@needs_library
@pytest.mark.slow  # the sanitizers find leaks in the ordinary run; this reads the memory of the process
def test_memory_stays_flat_over_many_calls() -> None:
    many_calls(200)
    before = resident_bytes()
    many_calls(10_000)
    assert resident_bytes() - before < 4 * 2**20


@needs_library
def test_the_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    library._loaded.cache_clear()
    try:
        monkeypatch.setenv("SGGP_NATIVE", "vax")
        with pytest.raises(InputError, match=r"SGGP_NATIVE='vax'.*expected 0 .*portable"):
            cpu.available()
        monkeypatch.setenv("SGGP_NATIVE", "portable")
        assert cpu.instruction_sets() == ("portable",)
        assert library.isa_index(None) == 0
        library._loaded.cache_clear()
        monkeypatch.setenv("SGGP_NATIVE", "0")
        assert not cpu.available()
        assert "SGGP_NATIVE=0" in cpu.unavailable_reason()
    finally:
        library._loaded.cache_clear()


@needs_library
@pytest.mark.parametrize(("whole", "reason"), [(False, r""), (True, r"\(100000 of \d+ bytes are there")])
def test_a_broken_library_is_not_used(
    whole: bool, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """One that was cut short ended the process."""
    content = b"not a library"
    if whole:
        content = pathlib.Path(library.library()._name).read_bytes()[:100_000]
        if content[:4] != b"\x7fELF":
            pytest.skip("no ELF library")
    (tmp_path / "_cpu.so").write_bytes(content)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.delenv("SGGP_NATIVE", raising=False)
    library._loaded.cache_clear()
    try:
        assert not cpu.available()
        assert re.search("could not be loaded " + reason, cpu.unavailable_reason())
    finally:
        library._loaded.cache_clear()

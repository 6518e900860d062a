"""The C++ engine under the address, undefined-behaviour and thread sanitizers, and installs with and without it."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "sggp/native/src/sanitize.sh"
DIES = """#!/bin/sh
for word in "$@"; do [ "$last" = -o ] && printf half > "$word"; last=$word; done
case "$*" in *-shared*) kill -9 $$ ;; esac
"""
"""A compiler whose linker is killed, as where memory runs out, when it has written a part of the library."""
needs_sources = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the sources are not here")
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@needs_sources
def test_the_sanitizers_see_every_function() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "sggp/native/src").glob("*.cpp")))
    exported = set(re.findall(r"SGGP_API [\w* ]*?(sggp_\w+?)(?:##suffix)?\(", sources))
    assert len(exported) > 15
    program = "".join(path.read_text() for path in sorted((ROOT / "tests/native").glob("sanitize*.cpp")))
    called = set(re.findall(r"(sggp_\w+)", program))
    both = {f"{name}{suffix}" for name in exported if name.endswith("_") for suffix in ("f32", "f64")}
    assert both | {name for name in exported if not name.endswith("_")} <= called


@pytest.mark.slow
@needs_sources
@needs_compiler
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizers: str, tmp_path: pathlib.Path) -> None:
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() {}")
    command = ["c++", f"-fsanitize={sanitizers}", str(probe), "-o", str(tmp_path / "probe")]
    if (
        subprocess.run(command, capture_output=True).returncode
        or subprocess.run([tmp_path / "probe"]).returncode
    ):
        pytest.skip(f"the compiler has no {sanitizers} sanitizer that runs here")
    run = subprocess.run(
        [str(SCRIPT), sanitizers, str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 failures" in run.stdout


def copied_sources(tmp_path: pathlib.Path) -> pathlib.Path:
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", "*.so", "build", "dist", "*.egg-info", "tests", "docs", "shared", ".*_cache"
        ),
    )
    return source


@pytest.mark.slow
@needs_sources
@needs_compiler
def test_a_wheel_holds_the_library_for_any_python(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "setup.py", "bdist_wheel", "--dist-dir", str(tmp_path / "dist")]
    run = subprocess.run(
        command,
        cwd=copied_sources(tmp_path),
        env={**os.environ, "SGGP_NATIVE": "require"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert re.fullmatch(r"sggp-[\w.]+-py3-none-(?!any)\w+\.whl", wheel.name)
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"sggp/native/cpu.py", "sggp/native/_cpu.so", "sggp/py.typed"} <= names
    assert not [name for name in names if name.endswith((".cpp", ".h", ".sh"))]


@pytest.mark.slow
@needs_sources
@pytest.mark.parametrize(
    ("mode", "compiler", "code"),
    [("", "", 0), ("require", "", 1), ("", DIES, 0)],
    ids=["optional", "required", "killed"],
)
def test_a_build_without_a_compiler(mode: str, compiler: str, code: int, tmp_path: pathlib.Path) -> None:
    (tmp_path / "c++").write_text(compiler)
    (tmp_path / "c++").chmod(0o755)
    path = str(tmp_path / "c++") if compiler else "/nonexistent/c++"
    environment = {**os.environ, "CC": path, "CXX": path, "SGGP_NATIVE": mode}
    source = copied_sources(tmp_path)
    out = tmp_path / "lib"
    run = subprocess.run(
        [sys.executable, "setup.py", "build", "--build-base", str(tmp_path / "b"), "--build-lib", str(out)],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (run.returncode != 0) == bool(code), run.stdout + run.stderr
    if code == 0:
        assert (out / "sggp/native/cpu.py").exists(), run.stdout + run.stderr
        assert not (out / "sggp/native/_cpu.so").exists()

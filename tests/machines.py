"""The tests as other machines would run them: torch, MKL and the engine on each of their instruction sets.

    python -m tests.machines                            the whole suite under every configuration
    python -m tests.machines --only lowest avx2         under these two
    python -m tests.machines --numerical                only the tests that a change of rounding can reach
    python -m tests.machines -- tests/solvers -k auto   what follows the dashes goes to pytest

One line per configuration, with pytest's closing line; the full output of a failure; exit status 1 where one failed.
`make test-machines` runs it, and `make test` runs `--short --only lowest avx2` after the ordinary tests.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUMERICAL = tuple(
    f"tests/{room}"
    for room in (
        *("solvers", "operators", "preconditioners", "posterior", "linear", "hyperparameters"),
        *("kernels", "native", "fitting"),
    )
)
# What `make test` has time for: the rooms where rounding decides something, without their longest files.
SHORT = (
    *NUMERICAL[:6],
    *(
        f"--ignore=tests/{name}.py"
        for name in (
            "hyperparameters/test_em",
            "hyperparameters/test_iterative",
            "hyperparameters/test_nearest_neighbour",
            "hyperparameters/test_sampling",
            "hyperparameters/test_tanimoto_fit",
            "solvers/test_budgets",
            "solvers/test_checkpoint",
            "solvers/test_stochastic_gradient_descent",
        )
    ),
)


@dataclass(frozen=True)
class Configuration:
    """How one other machine differs: environment variables, and whether the engine could be compiled there."""

    environment: dict[str, str] = field(default_factory=dict)
    compiler: bool = True


CONFIGURATIONS = {
    "aten-default": Configuration({"ATEN_CPU_CAPABILITY": "default"}),
    "aten-avx2": Configuration({"ATEN_CPU_CAPABILITY": "avx2"}),
    "mkl-sse4": Configuration({"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
    "mkl-avx2": Configuration({"MKL_ENABLE_INSTRUCTIONS": "AVX2"}),
    "mkl-compatible": Configuration({"MKL_CBWR": "COMPATIBLE"}),
    "threads-1": Configuration({"OMP_NUM_THREADS": "1"}),
    "threads-2": Configuration({"OMP_NUM_THREADS": "2"}),
    "engine-portable": Configuration({"SGGP_NATIVE": "portable"}),
    "engine-avx2": Configuration({"SGGP_NATIVE": "avx2"}),
    "engine-avx512": Configuration({"SGGP_NATIVE": "avx512"}),
    "no-compiler": Configuration(compiler=False),
    # a machine of ten years ago
    "avx2": Configuration(
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
            "SGGP_NATIVE": "avx2",
        }
    ),
    # everything that a program may lack at once, and the order of sums of no other row
    "lowest": Configuration(
        {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "OPENBLAS_CORETYPE": "Prescott",
            "SGGP_NATIVE": "0",
        }
    ),
}


def cannot_run(configuration: Configuration) -> str:
    """Why this machine cannot stand in for that one; empty where it can."""
    from sggp.native import cpu

    wanted = configuration.environment.get("SGGP_NATIVE", "0")
    if wanted == "0" or wanted in cpu.instruction_sets():
        return ""
    return f"no {wanted} here" if cpu.available() else f"no engine: {cpu.unavailable_reason()}"


@contextlib.contextmanager
def checkout(compiler: bool) -> Iterator[Path]:
    """The folder to test: this one, or a copy of it installed where there is no compiler."""
    if compiler:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "sggp"
        unwanted = (".*", "build", "dist", "site", "*.so", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*unwanted), symlinks=True)
        for name in (".github", ".ci"):
            shutil.copytree(ROOT / name, copy / name)
        without = {**os.environ, "CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(build, cwd=copy, env=without, check=True, capture_output=True)
        if list(copy.rglob("_cpu.*")):
            raise SystemExit("the engine was built without a compiler")
        yield copy


def run(configuration: Configuration, arguments: list[str], workers: int) -> tuple[int, str]:
    """pytest's exit status and its output."""
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with checkout(configuration.compiler) as folder:
        environment = {**os.environ, **threads, **configuration.environment, "PYTHONPATH": str(folder)}
        workers = max(1, workers // int(environment["OMP_NUM_THREADS"]))  # more would wait for one another
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n",
            str(workers if workers > 1 else 0),
            *arguments,
        ]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    return done.returncode, done.stdout


def closing_line(output: str) -> str:
    found = re.findall(
        r"^=*\s*(\d+ (?:passed|failed|error|skipped|deselected).*?)\s*=*$", output, re.MULTILINE
    )
    return found[-1] if found else "pytest did not finish"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 where a configuration failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=CONFIGURATIONS, help=", ".join(CONFIGURATIONS)
    )
    parser.add_argument("--numerical", action="store_true", help="only the rooms that compute")
    parser.add_argument("--short", action="store_true", help="a core of these, a minute each")
    parser.add_argument("--workers", type=int, default=2, help="pytest's -n")
    parser.add_argument("pytest", nargs="*", help="after --: tests and options of pytest")
    chosen = parser.parse_args(arguments)
    tests = [*(SHORT if chosen.short else NUMERICAL if chosen.numerical else ()), *chosen.pytest]
    names, failed = [], []
    for name in chosen.only or CONFIGURATIONS:
        if why := cannot_run(CONFIGURATIONS[name]):
            print(f"{name:<16} left out: {why}", flush=True)
        else:
            names.append(name)
    # as many configurations at once as there are workers: each loads torch and collects the tests once
    at_once = max(1, min(chosen.workers, len(names)))
    each = max(1, chosen.workers // at_once)
    with ThreadPoolExecutor(at_once) as pool:
        ended = pool.map(lambda name: run(CONFIGURATIONS[name], tests, each), names)
        for name, (status, output) in zip(names, ended, strict=True):
            print(f"{name:<16} {closing_line(output)}", flush=True)
            if status:
                failed.append(name)
                print(output, flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

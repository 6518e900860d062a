"""Scripts of the repository, each in a process of its own that need not load torch again.

A server loads torch and what else scripts use, once, and forks for every script; so a script costs what it does itself.
Where there is no safe fork (anything but Linux) each script is an ordinary process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600
FORKS = sys.platform == "linux"
PRELOADED = (
    *(
        "torch",
        "torch.fx.experimental.symbolic_shapes",  # loaded by the first kernel
        "gpytorch",
        "scipy.optimize",
        "scipy.stats",
        "sklearn.ensemble",
        "sklearn.gaussian_process",
        "sklearn.model_selection",
    ),
    *("sggp.estimator", "sggp.bayesopt", "sggp.datasets"),
    *(
        "botorch.models",
        "botorch.optim",
        "sggp.botorch",
        "rdkit.Chem",
        "sggp.molecules",
    ),  # where there are these extras
)


class Scripts:
    """Runs scripts; one of these per session, as the fixture `scripts`."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self,
        *command: object,
        cwd: Path | None = None,
        strict: bool = False,
        short: bool = False,
        anew: Iterable[str] = (),
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """``python *command``: a script, ``-m`` and a module or ``-c`` and code, with arguments; and what it said.

        Args:
            strict: sggp's own warnings are errors: an example that does not converge is a broken example.
            short: searches end early, see `tests.searches`; not where there is no fork.
            anew: packages that the script is to import itself: nothing that they do when they are imported was done in
                its process. It was in the server, so what they change elsewhere may be there.
            environment: variables beside this process's own.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        request: dict[str, Any] = {
            "command": [str(part) for part in command],
            "cwd": str(cwd or ROOT),
            "strict": strict,
            "short": short,
            "anew": list(anew),
            "environment": {**inherited, "PYTHONPATH": paths, "MPLBACKEND": "Agg", **environment},
        }
        with tempfile.TemporaryDirectory() as folder:
            said = [Path(folder) / name for name in ("out", "err")]
            code = self._answer({**request, "said": [str(path) for path in said]})
            out, err = (path.read_text(encoding="utf-8", errors="replace") for path in said)
        return subprocess.CompletedProcess(request["command"], code, out, err)

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.communicate()

    def _answer(self, request: dict[str, Any]) -> int:
        command = [sys.executable, __file__]
        if not FORKS:
            said, environment = json.dumps(request), request["environment"]
            return subprocess.run(command, input=said, env=environment, text=True).returncode
        if self._server is None:
            pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
            self._server = subprocess.Popen(
                [*command, "fork"], env=request["environment"], text=True, **pipes
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


class _AsSpawned(ForkProcess):
    """A fork that takes what a spawned process could take: scripts ask for spawned ones, which load torch again."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        carried = [part for part in self._args if type(part).__module__.split(".")[0] != "multiprocessing"]
        if self._target.__module__ != "concurrent.futures.process":  # which pickles what it is given itself
            ForkingPickler.dumps((self._target, carried))


class _AsSpawning(ForkContext):
    Process = _AsSpawned


def _serve() -> dict[str, Any]:
    """Fork for every request; each fork gets its request back and goes on from here."""
    gc.disable()
    sys.modules["triton"] = None  # type: ignore[assignment]  # else loaded here: a script may want its interpreter
    importlib.import_module("torch._dynamo")  # by the first optimiser: a second of each script
    del sys.modules["triton"]
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    importlib.import_module("scipy.stats").qmc.Sobol(1)  # reads its table, which every fork would read again
    gc.freeze()  # else every fork would copy what its collector touches
    gc.enable()
    while line := sys.stdin.readline():
        if not (child := os.fork()):
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _become(request: dict[str, Any]) -> None:
    """Let this process look as if it had been started for the request."""
    for number, path in enumerate(request["said"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    signal.alarm(SECONDS)
    for name in [name for name in sys.modules if name.split(".")[0] in request["anew"]]:
        del sys.modules[name]
    if request["strict"]:
        import warnings

        from sggp.errors import SggpWarning

        warnings.simplefilter("error", SggpWarning)


def _leave() -> NoReturn:
    """End as a script does, but free nothing of what the server loaded: that takes a third of a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Run one script, or with the argument ``fork`` one after the other."""
    forks = sys.argv[1:] == ["fork"]
    request = _serve() if forks else json.loads(sys.stdin.readline())
    _become(request)
    if forks:
        if request["short"]:
            from tests.searches import shortened  # PYTHONPATH names the root

            shortened().__enter__()
        context = multiprocessing.get_context
        multiprocessing.get_context = lambda method=None: (
            _AsSpawning() if method == "spawn" else context(method)
        )
    first, *rest = request["command"]
    if first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], request["cwd"]
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(module))
    elif first == "-m":
        sys.argv, sys.path[0] = rest, request["cwd"]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")
    if forks:
        _leave()


if __name__ == "__main__":
    main()

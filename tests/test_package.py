"""What importing and installing the package does, seen from other processes."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sggp
from sggp.lazy import names_on_demand
from tests.scripts import ROOT, Scripts

EXTRAS = ["botorch", "faiss", "matplotlib", "pooch", "rdkit", "rich", "typer"]

# Everything process-wide that an import could change; `snapshot()` is compared before and after. What the dependencies
# change when they are imported (scikit-learn imports rich where there is one, which draws random numbers) is not ours.
SNAPSHOT = """
import json, logging, os, random, sys, warnings
import gpytorch, linear_operator, numpy, torch

def settings(module):
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, type):
            state = {k: repr(v) for k, v in vars(value).items()}
            found[name] = {k: v for k, v in state.items() if k == "_state" or k.startswith("_global_")}
    return found

def snapshot():
    return {
        "default dtype": str(torch.get_default_dtype()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "float32 matmul": torch.get_float32_matmul_precision(),
        "torch generator": hash(bytes(torch.get_rng_state().tolist())),
        "numpy generator": repr(numpy.random.get_state()),
        "numpy errors": numpy.geterr(),
        "python generator": hash(random.getstate()),
        "gpytorch settings": settings(gpytorch.settings),
        "linear_operator settings": settings(linear_operator.settings),
        "warning filters": [repr(f) for f in warnings.filters],
        "root handlers": [repr(h) for h in logging.getLogger().handlers],
        "root level": logging.getLogger().level,
        "environment": dict(os.environ),
    }
"""


def run_python(code: str, *, cwd: Path) -> str:
    """What code prints in a process of its own, in which nothing was imported before."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_botorch_face_loads_and_changes_nothing_beyond_botorch(tmp_path: Path) -> None:
    """Learning, scikit-learn and SciPy's statistics wait for their first use: what they cost is in the modules.

    It prints nothing either, and registers features with BoTorch only when asked to.
    """
    pytest.importorskip("botorch")
    hosts = (
        "import botorch.acquisition.objective, botorch.models, botorch.sampling.pathwise.posterior_samplers"
    )
    code = (
        f"import sys, json; {hosts}; from botorch.models import MultiTaskGP; before = set(sys.modules)\n"
        "import gpytorch, linear_operator, logging, torch\n"
        "from botorch.sampling.pathwise.features.generators import GenKernelFeatures\n"
        "def state():\n"
        "    pairs = [(k, c, vars(c)) for m in (gpytorch.settings, linear_operator.settings)\n"
        "             for k, c in vars(m).items() if isinstance(c, type)]\n"
        "    values = {(k, a): repr(v) for k, c, d in pairs for a, v in d.items() if not callable(v)}\n"
        "    return values, torch.get_default_dtype(), torch.initial_seed(), torch.get_num_threads(),\\\n"
        "        logging.root.level, len(GenKernelFeatures.funcs)\n"
        "unchanged = state()\nimport sggp.botorch\n"
        "print(json.dumps([sorted(set(sys.modules) - before), state() == unchanged]))"
    )
    names, same = json.loads(run_python(code, cwd=tmp_path))
    assert same
    loaded = set(names)
    heavy = {"sklearn", "pandas", "joblib", "scipy.stats", "scipy.interpolate", "scipy.optimize"}
    rooms = {"analysis", "bayesopt", "cli", "estimator", "evidence", "hyperparameters", "linear", "molecules"}
    assert "sggp.botorch.model" in loaded
    assert loaded.isdisjoint(heavy | {f"sggp.{room}" for room in rooms} | {"sggp.fitting.model"})
    assert len([name for name in loaded if name.startswith("sggp")]) < 150


def test_importing_loads_little_and_changes_no_global_state_and_the_snapshot_would_notice(
    tmp_path: Path,
) -> None:
    """Of the package first; then of every public name, after what these load of other packages."""
    code = f"{SNAPSHOT}\n" + (
        "def changed():\n"
        "    after = snapshot()\n"
        "    return {k: [str(before[k]), str(after[k])] for k in before if before[k] != after[k]}\n"
        "modules, before = set(sys.modules), snapshot()\nimport sggp\n"
        "by_import, loaded = changed(), sorted(set(sys.modules) - modules)\n"
        "import sklearn.metrics, sklearn.neighbors, sklearn.preprocessing\n"
        "before = snapshot()\n[getattr(sggp, name) for name in sggp.__all__]\nby_names = changed()\n"
        "torch.set_default_dtype(torch.float64); torch.rand(1); numpy.random.rand(); warnings.simplefilter('ignore')\n"
        "logging.basicConfig(); gpytorch.settings.cg_tolerance._set_value(0.5); torch.set_num_threads(3)\n"
        "print(json.dumps([loaded, by_import, by_names, changed()]))"
    )
    loaded, by_import, by_names, noticed = json.loads(run_python(code, cwd=tmp_path))
    top = {name.split(".")[0] for name in loaded}
    assert "sggp" in top
    assert top.isdisjoint(EXTRAS)
    # "Under a second beyond torch and gpytorch" without a clock: nothing heavy is loaded before it is used.
    assert top.isdisjoint({"sklearn", "scipy", "pandas", "tqdm"})
    assert len(loaded) < 100
    assert by_import == {}
    assert by_names == {}
    assert set(noticed) >= {
        "default dtype", "torch generator", "numpy generator", "warning filters", "root handlers", "threads",
        "linear_operator settings",
    }  # fmt: skip


def test_public_names_exist_and_are_listed_once() -> None:
    assert len(set(sggp.__all__)) == len(sggp.__all__)
    for name in sggp.__all__:
        assert getattr(sggp, name) is not None, name
    assert set(sggp.__all__) <= set(dir(sggp))


@pytest.mark.parametrize("package", ["sggp", "sggp.fitting", "sggp.botorch"])
def test_names_are_listed_alike_for_programs_and_for_type_checkers(package: str) -> None:
    if package == "sggp.botorch":
        pytest.importorskip("botorch")
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: home for home, names in module._NAMES_OF.items() for name in names}
    assert set(typed) <= set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is getattr(importlib.import_module(typed[name]), name) for name in typed)


def test_public_names_need_no_extra(scripts: Scripts) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); import sggp;"  # importing None raises
        "[getattr(sggp, name) for name in sggp.__all__]; print('fine')"
    )
    done = scripts.run("-c", code, anew=("sggp", *EXTRAS))
    assert done.stdout == "fine\n", done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = sggp.no_such_name


def test_a_module_that_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_newer.py").write_text("import math\nthing = math.no_such_function\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sggp, "__getattr__", names_on_demand("sggp", {"needs_newer": ["thing"]})[0])
    with pytest.raises(ImportError, match=r"needs_newer could not be loaded: .*no_such_function"):
        from sggp import thing  # noqa: F401


def test_version_is_that_of_the_metadata() -> None:
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == sggp.__version__


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "sggp").rglob("*.py")}
    assert [str(f.relative_to(ROOT)) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def without_compiling(work: Path) -> dict[str, str]:
    """Compilers for which every source is empty: make has built the engine, and nothing here runs it."""
    script, empty = work / "compiler", work / "empty.cpp"
    empty.touch()
    script.write_text(
        "#!/bin/sh\n"
        f'for word; do shift; case $word in *.cpp) word="{empty}" ;; esac; set -- "$@" "$word"; done\n'
        'exec c++ "$@"\n'
    )
    script.chmod(0o755)
    return {"CC": str(script), "CXX": str(script)}


def installed(work: Path) -> tuple[Path, Path]:
    """The wheel, built from a copy of the sources, and the folder it is installed in."""
    source = work / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "setup.py"):
        shutil.copy(ROOT / name, source)
    skip = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    shutil.copytree(ROOT / "sggp", source / "sggp", ignore=skip)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(source)]
    settings = {name: value for name, value in os.environ.items() if name != "SGGP_NATIVE"}
    settings |= without_compiling(work)
    done = subprocess.run(build, env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = work.glob("sggp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "site")  # all that an installation does, but for the command and bytecode
    return wheel, work / "site"


def test_the_wheel_holds_every_module_and_imports_every_public_name_from_elsewhere(
    tmp_path: Path, scripts: Scripts
) -> None:
    """One test: a wheel is not built twice where tests are shared out among processes."""
    wheel, target = installed(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "sggp/py.typed" in names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sggp").rglob("*.py")}
    assert modules - names == set()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    strays = {name.split("/")[0] for name in names if not name.startswith("sggp-")} - {"sggp"}
    assert strays == set()
    engine = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sggp" / "native").glob("_cpu.*")}
    assert engine - names == set()
    assert "-py3-none-" in wheel.name
    code = (
        f"EXTRAS, HERE, THERE = {EXTRAS!r}, {str(ROOT)!r}, {str(target)!r}"
        + """
import importlib, json, pathlib, sys
sys.path = [THERE, *(folder for folder in sys.path if folder != HERE)]
import sggp
from sggp.errors import MissingExtra
seen = {"sggp": [getattr(sggp, n) is not None for n in sggp.__all__]}
root = pathlib.Path(sggp.__file__).parent
for path in sorted(root.rglob("*.py")):
    name = ".".join(("sggp", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
    if path.stem == "__main__":
        continue
    try:
        module = importlib.import_module(name)
    except MissingExtra:
        continue
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        continue
    seen[name] = [hasattr(module, n) for n in getattr(module, "__all__", [])]
print(json.dumps([sggp.__file__, seen]))
"""
    )
    done = scripts.run("-c", code, cwd=tmp_path, anew=("sggp",))
    assert done.returncode == 0, done.stderr
    location, seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert Path(location).is_relative_to(target)
    assert "sggp.errors" in seen
    assert [name for name, found in seen.items() if not all(found)] == []

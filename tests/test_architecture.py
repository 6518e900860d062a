"""The rules about who may import whom, and about size, read from the source without running it."""

from __future__ import annotations

import ast
import functools
import logging.config
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture import (
    PACKAGE,
    ROOT,
    circles,
    crowded_rooms,
    crowded_signatures,
    functions,
    length_of,
    module_name,
    repeats,
    sources,
    text_of,
    tree_of,
)

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_ROOM_FILES = 12

# Optional dependency -> the modules of sggp that may import it (a package stands for all of its modules).
EXTRAS = {
    "botorch": ("sggp.botorch",),
    "ax": ("sggp.botorch.ax",),
    "rdkit": ("sggp.molecules", "sggp.datasets.molecules"),
    "matplotlib": ("sggp.plotting",),
    "typer": ("sggp.cli",),
    "rich": ("sggp.cli",),
    "pooch": ("sggp.datasets",),
    "tqdm": ("sggp.molecules",),
    "openpyxl": ("sggp.molecules.files.formats.sheets",),
    "pyarrow": ("sggp.molecules.files.formats.arrow",),
    "faiss": ("sggp.neighbours",),
    "sqlalchemy": ("sggp.bayesopt.storage.database",),
    "pyro": ("sggp.hyperparameters.sampling.sample",),
    "triton": ("sggp.native.triton",),  # comes with torch for CUDA; there is no extra of that name
}
# scipy and joblib come with scikit-learn
HARD = {"torch", "gpytorch", "linear_operator", "numpy", "sklearn", "scipy", "joblib", "safetensors"}


def inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def imports_of(module: str, tree: ast.AST, *, is_package: bool = False) -> Iterator[tuple[str, int]]:
    """Every module named by an import statement, wherever it stands, except under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")
                anchor = anchor[: len(anchor) - node.level + (1 if is_package else 0)]
                base = ".".join([*anchor, base]).rstrip(".")
            yield base, node.lineno
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno
        else:
            yield from imports_of(module, node, is_package=is_package)


@functools.cache
def all_imports() -> list[tuple[Path, str, str, int]]:
    """Every import of the library: file, importing module, imported name, line."""
    return [
        (path, module_name(path), name, line)
        for path in sources()
        for name, line in imports_of(
            module_name(path),
            tree_of(path),
            is_package=path.name == "__init__.py",
        )
    ]


def check_no_import(source: tuple[str, ...], target: tuple[str, ...], *, but: tuple[str, ...] = ()) -> None:
    """Fail, with file and line, where a module inside `source` imports one inside `target`."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {name}"
        for path, module, name, line in all_imports()
        if inside(module, source) and inside(name, target) and not inside(name, but)
    ]
    assert not found, "\n".join(found)


def test_each_layer_imports_only_the_layers_below_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("importlinter")
    from importlinter import cli

    # it would silence every logger there is, and add to the path
    monkeypatch.setattr(logging.config, "dictConfig", lambda settings: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    status = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_every_layer_of_the_design_is_under_contract() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        (contract,) = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    named = {name.strip().strip("()") for layer in contract["layers"] for name in layer.split(":")}
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py"}
    there |= {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert there - {"__init__"} <= named


def test_solvers_and_kernels_never_import_each_other() -> None:
    check_no_import(("sggp.solvers", "sggp.preconditioners"), ("sggp.kernels",))
    check_no_import(("sggp.kernels",), ("sggp.solvers", "sggp.preconditioners", "sggp.operators"))


def test_solvers_see_operators_only_through_their_protocols() -> None:
    protocols = ("sggp.operators.base",)
    check_no_import(("sggp.solvers", "sggp.preconditioners"), ("sggp.operators",), but=protocols)


def test_operator_protocols_know_nothing_of_kernels_or_solvers() -> None:
    below = ("sggp.errors", "sggp.typing", "sggp.random", "sggp.parallel")
    check_no_import(("sggp.operators.base",), ("sggp",), but=below)


def test_bayesopt_sees_posteriors_and_paths_only() -> None:
    lower = ("sggp.solvers", "sggp.preconditioners", "sggp.operators", "sggp.native")
    check_no_import(("sggp.bayesopt",), lower)
    # the surrogate makes the posterior of a campaign, so it alone names a kernel
    rest = {module for _, module, _, _ in all_imports() if inside(module, ("sggp.bayesopt",))}
    check_no_import(tuple(rest - {"sggp.bayesopt", "sggp.bayesopt.surrogate"}), ("sggp.kernels",))


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_extras_are_imported_only_where_allowed(extra: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {name}"
        for path, module, name, line in all_imports()
        if inside(name, (extra,)) and not inside(module, EXTRAS[extra])
    ]
    assert not found, "\n".join(found)


def test_nothing_else_is_imported() -> None:
    known = HARD | set(EXTRAS) | set(sys.stdlib_module_names) | {"sggp"}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, _, name, line in all_imports()
        if name.split(".")[0] not in known
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["sggp", "tests", "examples", "benchmarks"])
def test_files_and_functions_stay_short(folder: str) -> None:
    long = []
    for path in sources(ROOT / folder):
        lines = len(text_of(path).splitlines())
        if lines > MAX_FILE_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in functions(path):
            if (length := length_of(node)) > MAX_FUNCTION_LINES:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    assert not long, "\n".join(long)


def test_the_library_neither_prints_nor_asserts_nor_swallows_everything() -> None:
    found = []
    for path in sources():
        module = module_name(path)
        for node in ast.walk(tree_of(path)):
            prints = (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            )
            if prints and not inside(module, ("sggp.cli",)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: print")
            if isinstance(node, ast.Assert):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: assert")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: bare except")
    assert not found, "\n".join(found)


def test_no_import_goes_round_in_a_circle() -> None:
    """Nor in a function or under TYPE_CHECKING, where it would only be hidden."""
    assert circles() == []


def test_few_signatures_are_crowded() -> None:
    crowded = crowded_signatures()
    assert len(crowded) <= 20, "\n".join(f"{count} parameters: {where}" for count, where in crowded)


def test_a_large_room_has_inner_rooms() -> None:
    assert crowded_rooms(MAX_ROOM_FILES) == []


def test_little_is_written_twice() -> None:
    found = repeats()
    assert len(found) <= 10, "\n".join(f"{count} lines: {one} and {two}" for count, one, two in found)

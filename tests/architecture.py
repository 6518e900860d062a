"""The numbers of the house: `python -m tests.architecture` prints them, tests/test_architecture.py bounds them.

Everything is read from the source; nothing of the library is run.
"""

from __future__ import annotations

import ast
import functools
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sggp"
MANY_PARAMETERS = 8
REPEATED_LINES = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def functions(path: Path) -> Iterator[Function]:
    inside: list[ast.AST] = [tree_of(path)]
    while inside:
        node = inside.pop()
        if isinstance(node, Function):
            yield node
        inside += [part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.expr)]


def length_of(node: Function) -> int:
    """Lines of a function without its docstring, which is meant to be complete."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return length


def parameters_of(node: Function) -> int:
    """Parameters without self and cls; *args and **kwargs are one each."""
    named = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len(named) - (named[:1] in (["self"], ["cls"])) + bool(node.args.vararg) + bool(node.args.kwarg)


def crowded_signatures() -> list[tuple[int, str]]:
    """Functions of many parameters, most first: how many, and which."""
    found = [
        (parameters_of(node), f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
        for path in sources()
        for node in functions(path)
        if parameters_of(node) >= MANY_PARAMETERS
    ]
    return sorted(found, reverse=True)


def crowded_rooms(most: int) -> list[tuple[int, str]]:
    """Folders of more than `most` modules, none of them in an inner room."""
    rooms = {path.parent for path in sources()}
    sizes = {room: len(list(room.glob("*.py"))) for room in rooms}
    inner = {room.parent for room in rooms}
    return sorted(
        (size, str(room.relative_to(ROOT)))
        for room, size in sizes.items()
        if size > most and room not in inner
    )


# --- imports ----------------------------------------------------------------------------------------------------


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """The modules of the library that a file names in an import: in functions and under TYPE_CHECKING, too."""
    module, found = module_name(path), set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            anchor = module.split(".") + [""] * (path.name == "__init__.py")
            base = ".".join(
                [*anchor[: len(anchor) - node.level], node.module or ""]
                if node.level
                else [node.module or ""]
            )
            base = base.rstrip(".")
            found |= {name if (name := f"{base}.{alias.name}") in modules else base for alias in node.names}
    return (found & modules) - {module}


def circles() -> list[list[str]]:
    """Groups of modules each of which imports, over others, every other one."""
    paths = {module_name(path): path for path in sources()}
    graph = {name: imported_modules(path, set(paths)) for name, path in paths.items()}
    reach: dict[str, set[str]] = {}
    for name in graph:
        seen, todo = set(), [name]
        while todo:
            for other in graph[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        reach[name] = seen
    groups = {
        frozenset({name} | {other for other in reach[name] if name in reach[other]})
        for name in graph
        if name in reach[name]
    }
    return sorted(sorted(group) for group in groups)


# --- repeats ----------------------------------------------------------------------------------------------------


def code_lines(path: Path, signatures: bool) -> list[tuple[int, str]]:
    """Line numbers and text of what is code: no blank lines, comments, docstrings, imports or lone brackets."""
    skipped: set[int] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, Function) and not signatures:
            skipped |= set(range(node.lineno, node.body[0].lineno))
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text_of(path).splitlines(), start=1)
    stripped = ((number, line.split("  #")[0].strip()) for number, line in lines if number not in skipped)
    return [
        (number, line) for number, line in stripped if line.strip("()[]{},:") and not line.startswith("#")
    ]


def repeats(signatures: bool = False) -> list[tuple[int, str, str]]:
    """Pairs of places that share at least `REPEATED_LINES` lines of code in a row: how many, and where.

    Args:
        signatures: whether lists of parameters count, which engines and recipes of one contract have in common.
    """
    files = {path: code_lines(path, signatures) for path in sources()}
    places: defaultdict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, lines in files.items():
        for start in range(len(lines) - REPEATED_LINES + 1):
            places[tuple(line for _, line in lines[start : start + REPEATED_LINES])].append((path, start))
    pairs = {pair for where in places.values() for pair in itertools.combinations(sorted(where), 2)}
    found = []
    for (a, i), (b, j) in sorted(pairs):
        if ((a, i - 1), (b, j - 1)) in pairs or (a == b and j - i < REPEATED_LINES):
            continue  # within a longer one that is counted, or one run of equal lines
        length = REPEATED_LINES
        while ((a, i + length - REPEATED_LINES + 1), (b, j + length - REPEATED_LINES + 1)) in pairs:
            length += 1
        found.append((length, *(f"{p.relative_to(ROOT)}:{files[p][k][0]}" for p, k in ((a, i), (b, j)))))
    return sorted(found, reverse=True)


def listed(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"  {line}")


def main() -> None:
    lines = {path: len(text_of(path).splitlines()) for path in sources()}
    code = [length_of(node) for path in sources() for node in functions(path)]
    circular, crowded, rooms, copies = circles(), crowded_signatures(), crowded_rooms(12), repeats()
    print(f"product lines in sggp/: {sum(lines.values())}, {len(lines)} files")
    print(f"lines of a file: median {statistics.median(lines.values()):.0f}, most {max(lines.values())}")
    print(f"lines of a function: median {statistics.median(code):.0f}, most {max(code)}")
    print(f"import circles: {len(circular)}")
    listed(" ↔ ".join(group) for group in circular)
    print(f"functions of {MANY_PARAMETERS} or more parameters: {len(crowded)}")
    listed(f"{count:2} {where}" for count, where in crowded)
    print(f"rooms of more than 12 files without inner rooms: {len(rooms)}")
    listed(f"{count:2} {where}" for count, where in rooms)
    print(f"repeats of {REPEATED_LINES} lines or more: {len(copies)} pairs of places", end=", ")
    print(f"{len(repeats(signatures=True))} where lists of parameters count")
    listed(f"{count:2} lines: {one} and {two}" for count, one, two in copies)


if __name__ == "__main__":
    main()

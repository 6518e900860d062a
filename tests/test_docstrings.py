"""Every `>>>` example of the library's docstrings, of the documentation and of the README prints what it says."""

from __future__ import annotations

import doctest
import importlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.architecture import PACKAGE, ROOT, module_name, sources

# part: its extra
NEEDS = {
    "botorch/ax.py": "ax",
    "botorch": "botorch",
    "molecules": "rdkit",
    "hyperparameters/sampling": "pyro",
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = [
    path
    for path in [*sources(), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
    if ">>>" in path.read_text(encoding="utf-8")
]


def examples_of(path: Path) -> list[doctest.DocTest]:
    """The examples of a module or of a page, one test per docstring."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
        return [doctest.DocTestParser().get_doctest(text, {}, path.name, str(path), 0)]
    module = importlib.import_module(module_name(path))
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_print_what_they_say(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, extra in NEEDS.items():
        if path.is_relative_to(PACKAGE / part):
            pytest.importorskip(extra)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (whatever an example draws from the global generators)
    random.seed(0)
    report: list[str] = []
    tests = examples_of(path)
    for test in tests:
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    assert sum(len(test.examples) for test in tests) == path.read_text(encoding="utf-8").count(">>> ")
    assert not report, "".join(report)

"""Files that commands read, and a cache that is not the user's."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sggp.bayesopt import BoxSearch
from tests.cli.commands import ALCOHOLS, LIBRARY, write
from tests.searches import shortened


@pytest.fixture(autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes fingerprints into the user's cache."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module", autouse=True)
def _short_searches() -> Iterator[None]:
    """What commands do with a model hangs on no digit of it."""
    with shortened():
        yield


@pytest.fixture(autouse=True)
def _few_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outlook asks an eighth of the usual paths: what they say is tested where they are drawn."""
    monkeypatch.setattr("sggp.bayesopt.campaign._PATHS", 32)


@pytest.fixture(autouse=True)
def _short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes are searched for a moment only: how well is tested where they are searched."""
    short = functools.partial(BoxSearch, rounds=2, candidates=256, starts=1, steps=10)
    for name in ("outlook.ask", "rules.hypervolume", "spaces.search"):
        monkeypatch.setattr(importlib.import_module(f"sggp.bayesopt.{name}"), "BoxSearch", short)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn; a file that defines this anew has them drawn."""
    monkeypatch.setattr("sggp.cli.report.to_png", lambda figure: b"\x89PNG")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    rows = [[name, float(name.count("C"))] for name in ALCOHOLS]
    measured = [*rows, ["CCO", 2.2], ["not a molecule", 1.0], ["CCC", "high"], ["CCCC", "nan"], ["", 3.0]]
    library = [[f"L{i}", smiles] for i, smiles in enumerate([*LIBRARY, "OCC", "C1CC"])]
    return {
        "m": write(tmp_path / "m.csv", ["SMILES", "activity"], measured),
        "l": write(tmp_path / "l.csv", ["code", "smiles"], library),
        "out": tmp_path / "next.csv",
    }

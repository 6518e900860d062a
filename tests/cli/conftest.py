"""Files that commands read, and a cache that is not the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import ALCOHOLS, LIBRARY, write


@pytest.fixture(autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes fingerprints into the user's cache."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _few_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outlook asks an eighth of the usual paths: what they say is tested where they are drawn."""
    monkeypatch.setattr("sggp.bayesopt.campaign._PATHS", 32)


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

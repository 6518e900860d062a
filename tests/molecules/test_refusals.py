"""Every entrance of the room with what it cannot use: a typed error in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit", reason="the extra molecules is not installed")

from sggp.errors import SggpError
from sggp.molecules import (
    FingerprintTable,
    SmilesFingerprinter,
    compute_property,
    draw_grid,
    logp,
    molecule_svg,
    read_molecules,
    read_table,
    write_rejects,
)

SMILES = ["CCO", "CO", "c1cc[nH]c1"]
NOT_SMILES = (
    None,
    3,
    "CCO",
    b"CCO",
    [],
    [None],
    [3],
    ["nonsense"],
    [""],
    np.zeros((2, 2)),
    torch.zeros(2),
    object(),
)
NOT_COUNTS = (
    None,
    3,
    "CCO",
    ["CCO"],
    [],
    [1, 2],
    [[1], [1, 2]],
    [[0.5]],
    [[-1]],
    [[256]],
    [[float("nan")]],
    [[1j]],
)
NOT_WHOLE = (2.0, True, "3", float("nan"), [1], -1, 2**70)
NOT_PATHS = (None, 3, ["a.csv"], object())


def table() -> FingerprintTable:
    return FingerprintTable.from_smiles(SMILES, SmilesFingerprinter(fp_size=64))


def settings(**given) -> object:
    return SmilesFingerprinter(**given).fit(SMILES)


ENTRANCES = {
    "from_smiles": (FingerprintTable.from_smiles, NOT_SMILES),
    "from_smiles.fingerprinter": (
        lambda bad: FingerprintTable.from_smiles(SMILES, bad),
        (3, "morgan", SmilesFingerprinter),
    ),
    "from_smiles.ids": (lambda bad: FingerprintTable.from_smiles(SMILES, ids=bad), (3, "abc", ["a"], [])),
    "from_smiles.on_invalid": (
        lambda bad: FingerprintTable.from_smiles(SMILES, on_invalid=bad),
        (None, "mask", 1, []),
    ),
    "from_smiles.on_duplicate": (
        lambda bad: FingerprintTable.from_smiles(SMILES, on_duplicate=bad),
        (None, "first", []),
    ),
    "from_smiles.progress": (lambda bad: FingerprintTable.from_smiles(SMILES, progress=bad), (None, "no", 1)),
    "from_smiles.cache": (lambda bad: FingerprintTable.from_smiles(SMILES, cache=bad), (3, ["a"], object())),
    "from_csv": (FingerprintTable.from_csv, NOT_PATHS),
    "from_csv.cache": (lambda bad: FingerprintTable.from_csv(bad, cache="kept"), NOT_PATHS),
    "from_counts": (FingerprintTable.from_counts, NOT_COUNTS),
    "from_counts.smiles": (
        lambda bad: FingerprintTable.from_counts([[1, 2]], smiles=bad),
        (3, "CCO", ["a", "b"], []),
    ),
    "from_counts.ids": (
        lambda bad: FingerprintTable.from_counts([[1, 2]], ids=bad),
        (3, "CCO", ["a", "b"], []),
    ),
    "dense": (lambda bad: table().dense(bad), (None, 1.5, "a", [0.5], [[0]], ["a"], [True], object())),
    "dense.memory_budget": (lambda bad: table().dense([0], memory_budget=bad), (*NOT_WHOLE, None, 0)),
    "chunks": (lambda bad: list(table().chunks(bad)), (*NOT_WHOLE, None, 0)),
    "take": (lambda bad: table().take(bad), (None, 1.5, "a", [0.5], [[0]], ["a"], [True])),
    "locate": (lambda bad: table().locate(bad), NOT_SMILES),
    "save": (lambda bad: table().save(bad), (*NOT_PATHS, "no/such/folder/x")),
    "open": (FingerprintTable.open, (*NOT_PATHS, "nothing", ".")),
    "radius": (lambda bad: settings(radius=bad), (*NOT_WHOLE, None)),
    "fp_size": (lambda bad: settings(fp_size=bad), (*NOT_WHOLE, None, 0, 2**31)),
    "counts": (lambda bad: settings(counts=bad), (None, 1, "yes")),
    "on_invalid": (lambda bad: settings(on_invalid=bad), (None, "keep", 1, [])),
    "on_duplicate": (lambda bad: settings(on_duplicate=bad), (None, "keep", 1, [])),
    "n_jobs": (lambda bad: SmilesFingerprinter(n_jobs=bad).transform(SMILES), (0, 1.5, True, "all")),
    "names": (lambda bad: SmilesFingerprinter(fp_size=bad).get_feature_names_out(), ("a", 1.5, 0)),
    "transform": (lambda bad: SmilesFingerprinter().transform(bad), NOT_SMILES),
    "compute_property": (lambda bad: compute_property(bad, "logp"), NOT_SMILES),
    "compute_property.name": (lambda bad: compute_property(SMILES, bad), (None, "taste", 3, ["logp"])),
    "logp": (logp, (None, 3, "nonsense", "", SMILES)),
    "molecule_svg": (molecule_svg, (None, 3, "nonsense", "", SMILES)),
    "molecule_svg.size": (
        lambda bad: molecule_svg("CO", size=bad),
        (None, 3, "ab", (0, 1), (1.5, 2), (1, 2, 3)),
    ),
    "draw_grid.columns": (lambda bad: draw_grid(SMILES, columns=bad), (*NOT_WHOLE, None, 0)),
    "draw_grid.legends": (lambda bad: draw_grid(SMILES, bad), (3, "abc", ["a"], [])),
    "read_table": (read_table, (*NOT_PATHS, "nothing.csv", ".")),
    "read_molecules": (read_molecules, (*NOT_PATHS, "nothing.csv", ".")),
    "write_rejects": (lambda bad: write_rejects(bad, []), (*NOT_PATHS, "no/such/folder/x.csv")),
}
CASES = [
    pytest.param(call, bad, id=f"{name}-{i}")
    for name, (call, given) in ENTRANCES.items()
    for i, bad in enumerate(given)
]


@pytest.mark.parametrize(("call", "bad"), CASES)
def test_what_cannot_be_used_is_refused_in_words(call, bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SggpError, match=r".{20,}"):
        call(bad)
    assert [path for path in tmp_path.iterdir() if path.name != "kept"] == []


def test_columns_that_are_no_names_are_refused(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("smiles,value\nCCO,1\n")
    for bad in (3, ["smiles"], "nope"):
        for column in ("smiles_column", "value_column", "id_column"):
            with pytest.raises(SggpError, match="no column"):
                read_molecules(path, **{column: bad})

"""Molecule sets: sizes and first entries, wheels' own files included."""

import numpy as np
import pytest

from sggp.datasets import (
    dockstring_evaluated,
    dockstring_small,
    enamine10k,
    esol,
    free_wilson,
    freesolv,
    lipophilicity,
    nci_first_5k,
    tyk2,
    zinc250k,
)
from sggp.errors import DataFileError


def test_files_in_rdkits_wheel():
    pytest.importorskip("rdkit")
    data = nci_first_5k()
    assert len(data) == 4999
    assert data.smiles[0] == "CC1=CC(=O)C=CC1=O"
    assert (data.ids[0], data.ids[3]) == ("1", "4")
    assert "4999 molecules, 0 targets" in repr(data)


def test_free_wilson():
    pytest.importorskip("rdkit")
    try:
        data = free_wilson()
    except DataFileError as error:
        pytest.skip(str(error))
    assert len(data.smiles) == len(data.ids) == len(data.values["pic50"]) == len(set(data.ids))
    index = data.ids.index("1520012")
    assert data.smiles[index] == "O=S(=O)(Nc1cccs1)c2ccc(Oc3ccccc3c4ccccc4)c(c2)C#N"
    assert data.values["pic50"][index] == 5.48


def test_published_sets(data_dir):
    docking = dockstring_small()
    assert (len(docking), len(docking.values)) == (5000, 58)
    assert sorted(set(docking.split)) == ["test", "train"]
    assert max(values.max() for values in docking.values.values()) == 5.0
    assert not np.isnan(docking.values["F2"]).any()
    assert [len(load()) for load in (esol, freesolv, lipophilicity)] == [1128, 642, 4200]
    assert esol().values["log_solubility"][0] == -0.77
    assert len(zinc250k()) == 249455


def test_lookup_tables(data_dir):
    docked = dockstring_evaluated()
    assert (len(docked), np.isfinite(docked.values["F2"]).sum()) == (343060, 97045)
    assert (docked.values["F2"][0], sorted(docked.values)[-2:]) == (-9.6, ["QED", "logP"])
    assert (len(enamine10k()), enamine10k().values["score"][0]) == (10449, -9.9)
    energies = tyk2()
    assert (len(energies), energies.ids[1], energies.values["free_energy"][1]) == (9997, "1", 8.731)


def test_empty_and_damaged_files(tmp_path, monkeypatch):
    monkeypatch.setenv("SGGP_DATA_DIR", str(tmp_path))
    (tmp_path / "mol").mkdir()
    path = tmp_path / "mol" / "zinc250k.smi.csv.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(DataFileError, match="cannot be read"):
        zinc250k()
    import gzip

    path.write_bytes(gzip.compress(b"smiles\n"))
    with pytest.raises(DataFileError, match="no data row"):
        zinc250k()

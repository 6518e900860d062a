"""Fingerprints and products by several processes, which are started once for both: that takes seconds."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit")

from sggp.datasets import nci_first_5k
from sggp.molecules import ReactionLibrary, SmilesFingerprinter, featurise
from sggp.molecules.reactions import produce
from tests.molecules.reagents import quinazolinones


def test_processes_give_and_make_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same fingerprints in the same order, and the same products of a reaction."""
    monkeypatch.setattr(produce, "_IDLE", featurise._IDLE)  # else they would be others
    nci = list(nci_first_5k().smiles[:500])
    monkeypatch.setattr(featurise, "_CHUNK", len(nci) // 9)
    alone, many = (SmilesFingerprinter(fp_size=256, n_jobs=jobs) for jobs in (1, 2))
    np.testing.assert_array_equal(many.transform(nci), alone.transform(nci))
    reaction, numbers = quinazolinones(10), np.arange(300)
    one, other = (ReactionLibrary(reaction, fingerprinter=each) for each in (alone, many))
    assert (one.make(numbers) == other.make(numbers)).all()
    assert (one.products[:] == other.products[:]).all()

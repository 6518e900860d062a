"""Lists of RDKit's own fingerprints, wherever rows of counts are taken."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from scipy.sparse import csr_array

from sggp import GPRegressor
from sggp.bayesopt import Pool
from sggp.bayesopt.screening import screen
from sggp.errors import DtypeError, ShapeError
from sggp.estimator import TanimotoKernel
from sggp.molecules import FingerprintTable

MOLECULES = [Chem.MolFromSmiles("C" * n + end) for n in range(1, 9) for end in ("O", "N", "c1ccccc1")]
VALUES = np.array([m.GetNumAtoms() + 0.1 * (i % 3) for i, m in enumerate(MOLECULES)])
GENERATOR = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=256)
BITS = [GENERATOR.GetFingerprint(m) for m in MOLECULES]
COUNTS = [GENERATOR.GetCountFingerprint(m) for m in MOLECULES]


@pytest.mark.parametrize("kind", ["bits", "counts"])
def test_vectors_are_what_their_arrays_are(kind: str) -> None:
    """Counts were 'one dimension', and bits of a pool numbers: not compared by Tanimoto."""
    vectors = BITS if kind == "bits" else COUNTS
    to_array = GENERATOR.GetFingerprintAsNumPy if kind == "bits" else GENERATOR.GetCountFingerprintAsNumPy
    array = np.stack([to_array(m) for m in MOLECULES]).astype(np.uint8)
    means = [
        GPRegressor(kernel="tanimoto", random_state=0).fit(X[:16], VALUES[:16]).predict(X[16:])
        for X in (array, vectors, np.array(vectors, dtype=object))
    ]
    assert np.array_equal(means[0], means[1])
    assert np.array_equal(means[0], means[2])
    assert np.array_equal(TanimotoKernel()(vectors), TanimotoKernel()(array))
    pool = Pool(vectors)
    assert pool.kind == "counts"
    assert np.array_equal(pool.rows(range(len(array))).numpy(), array)
    assert np.array_equal(FingerprintTable.from_counts(vectors)[:].numpy(), array)
    of_pool, of_array = (
        screen(given, VALUES, [0, 5, 9, 13], rounds=1, batch_size=2, generator=0) for given in (pool, array)
    )
    assert of_pool.steps[1].rows == of_array.steps[1].rows


@pytest.mark.parametrize("make", ["GetSparseFingerprint", "GetSparseCountFingerprint"])
def test_vectors_that_are_not_folded_are_refused(make: str) -> None:
    """2^32 positions a row were a MemoryError."""
    vectors = [getattr(GENERATOR, make)(m) for m in MOLECULES]
    for use in (Pool, FingerprintTable.from_counts, lambda X: GPRegressor(kernel="tanimoto").fit(X, VALUES)):
        with pytest.raises(DtypeError, match="not folded"):
            use(vectors)
    with pytest.raises(ShapeError, match="128, 256 positions"):
        Pool([*BITS, rdFingerprintGenerator.GetMorganGenerator(fpSize=128).GetFingerprint(MOLECULES[0])])


def test_a_sparse_matrix_is_no_pool_and_the_way_out_is_said() -> None:
    with pytest.raises(DtypeError, match="from_counts"):
        Pool(csr_array(np.eye(3, dtype=np.uint8)))

"""The Tanimoto kernels as scikit-learn kernels, on counts or on SMILES."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy.sparse import issparse
from sklearn.gaussian_process.kernels import GenericKernelMixin
from sklearn.gaussian_process.kernels import Kernel as ScikitLearnBase

from sggp.arrays import fingerprint_rows
from sggp.checks import one_of
from sggp.kernels import Covariance, TanimotoDotProduct, TanimotoMinMax, as_covariance

_KINDS: dict[str, type[Kernel]] = {"minmax": TanimotoMinMax, "dot": TanimotoDotProduct}


class TanimotoKernel(GenericKernelMixin, ScikitLearnBase):
    """Similarity of fingerprints for `sklearn.gaussian_process`, and as `kernel` of `sklearn.svm.SVR`.

    It has nothing to learn: multiply it by a ConstantKernel. In a `GPRegressor` it becomes the GPyTorch kernel.

    Args:
        kind: "minmax" for Σ min(x, z) / Σ max(x, z), "dot" for x·z / (x·x + z·z − x·z).
        fingerprinter: makes counts of rows that are SMILES: anything with `transform`; None for
            `sggp.molecules.SmilesFingerprinter()`.

    Example:
        >>> import numpy as np
        >>> from sggp.estimator import TanimotoKernel
        >>> TanimotoKernel()(np.array([[1, 2, 0], [0, 2, 1]])).round(2).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """

    def __init__(self, kind: str = "minmax", fingerprinter: Any = None) -> None:
        self.kind = kind
        self.fingerprinter = fingerprinter

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """(n, m) similarities of rows of X and Y, or of X among themselves; with an empty gradient where asked for.

        Args:
            X: (n, d) counts, dense or sparse, or n SMILES. Y: the same, or None for X.

        Raises:
            ValueError: Y together with eval_gradient, as in scikit-learn. InputError: an unknown kind.
        """
        if eval_gradient and Y is not None:
            raise ValueError("Gradient can only be evaluated when Y is None.")
        x = self._counts(X)
        values = self._covariance().block(x, None if Y is None else self._counts(Y)).double().numpy()
        return (values, np.empty((*values.shape, 0))) if eval_gradient else values

    def diag(self, X: Any) -> np.ndarray:
        """(n,) similarities of rows of X with themselves."""
        found: np.ndarray = self._covariance().diagonal(self._counts(X)).double().numpy()
        return found

    def is_stationary(self) -> bool:
        """False: it is no function of differences."""
        return False

    def as_gpytorch(self) -> Kernel:
        """The GPyTorch kernel of the same values on counts."""
        return _KINDS[one_of(self.kind, "kind", tuple(_KINDS))]()

    def _covariance(self) -> Covariance:
        return as_covariance(self.as_gpytorch(), dtype=torch.float64)

    def _counts(self, X: Any) -> torch.Tensor:
        if issparse(X):
            X = X.toarray()
        rows = np.asarray(fingerprint_rows(X))
        if rows.dtype.kind in "OUS" and rows.ndim == 1:
            rows = self._fingerprints(tuple(str(smiles) for smiles in rows))
        return torch.from_numpy(np.ascontiguousarray(rows, dtype=None if rows.dtype == np.uint8 else float))

    def _fingerprints(self, smiles: tuple[str, ...]) -> np.ndarray:
        if self.fingerprinter is not None:
            return np.asarray(self.fingerprinter.transform(list(smiles)))
        return _default_fingerprints(smiles)


@lru_cache(maxsize=8)  # an optimiser asks for the same rows at every step
def _default_fingerprints(smiles: tuple[str, ...]) -> np.ndarray:
    from sggp.molecules import SmilesFingerprinter

    return np.asarray(SmilesFingerprinter().transform(list(smiles)))

"""The kernel of several fingerprints side by side: a weighted sum, the weights learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import AdditiveKernel, Kernel, RBFKernel, ScaleKernel

from sggp.errors import DtypeError, InputError
from sggp.hyperparameters.defaults import log_normal
from sggp.kernels import TanimotoMinMax
from sggp.kernels.generic import copied

Ranges = Mapping[str, tuple[int, int]]
DESCRIPTORS = "descriptors"
"""The part whose columns are numbers on a scale, not counts."""
_SPREAD = 1.0  # of the logarithm of a weight
_LEAST_SHARE = 0.01  # of the variance, below which a part is left out of predictions
_LENGTH_SCALE = 48.0  # steps of the stored descriptors: four standard deviations of drug-like molecules


def parts_kernel(parts: Ranges) -> Kernel:
    """s Σ_p w_p k_p, each k_p of the columns of one part: T_MM of counts, an RBF kernel of descriptors.

    Every weight has a log-normal prior of log-spread 1, highest at 1/P for P parts, so that a hundred molecules leave
    the weights near equal and a thousand move them where the evidence is; s has that of a Tanimoto kernel alone. The
    RBF kernel has one length scale for all descriptors, which are stored in steps that make that sensible; its prior
    is highest at 48 steps, log-spread 1.

    Args:
        parts: from the name of each part to its first column and the one after its last.
    """
    share = 1.0 / len(parts)
    terms = []
    for name, (start, stop) in parts.items():
        columns = tuple(range(start, stop))
        term = ScaleKernel(_base(name, columns), outputscale_prior=log_normal(share, _SPREAD)).double()
        term.outputscale = torch.tensor(share, dtype=torch.float64)
        terms.append(term)
    kernel = ScaleKernel(AdditiveKernel(*terms), outputscale_prior=log_normal(1.0, 1.0)).double()
    kernel.outputscale = 1.0
    return kernel


def _base(name: str, columns: tuple[int, ...]) -> Kernel:
    if name != DESCRIPTORS:
        return TanimotoMinMax(active_dims=columns)
    own: dict[str, Any] = {
        "lengthscale_prior": log_normal(_LENGTH_SCALE, 1.0),
        "lengthscale_constraint": Positive(),
    }
    base = RBFKernel(active_dims=columns, **own)
    base.lengthscale = _LENGTH_SCALE
    return base


def summed(kernel: ScaleKernel) -> AdditiveKernel:
    """Σ_p (s w_p) k_p: the same kernel as a plain sum, to be learnt no more.

    Parts of less than a hundredth of the variance are left out: they say next to nothing, and cost as much as others.
    """
    shares = weights_of(kernel, range(len(kernel.base_kernel.kernels)))
    terms = []
    for index, term in enumerate(kernel.base_kernel.kernels):
        if shares[index] >= _LEAST_SHARE:
            own = copied(term).double().requires_grad_(False)
            own.outputscale = (term.outputscale * kernel.outputscale).detach()
            terms.append(own)
    return AdditiveKernel(*terms)


def weights_of(kernel: ScaleKernel, parts: Iterable[Any]) -> dict[Any, float]:
    """The share of each part in the prior variance of a kernel that was learnt from `parts_kernel(parts)`."""
    scales = [float(term.outputscale.detach()) for term in kernel.base_kernel.kernels]
    return {name: scale / sum(scales) for name, scale in zip(parts, scales, strict=True)}


def checked_parts(parts: Any, width: int) -> dict[str, tuple[int, int]]:
    """Ranges of columns by name, as plain numbers.

    Raises:
        DtypeError: not a mapping from names to two whole numbers.
        InputError: none, a range without columns, or one that leaves the `width` columns of the rows.
    """
    try:
        ranges = {str(name): (int(start), int(stop)) for name, (start, stop) in dict(parts).items()}
    except (TypeError, ValueError) as error:
        raise DtypeError(
            f"parts must be a mapping from names to (first column, one after the last), got {parts!r}."
        ) from error
    if not ranges or not all(0 <= start < stop <= width for start, stop in ranges.values()):
        raise InputError(f"parts must be ranges within the {width} columns of the rows; got {ranges}.")
    return ranges

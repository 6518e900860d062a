"""What a fit starts from: any way of naming a kernel, turned into a GPyTorch kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpytorch.kernels import Kernel

from sggp.errors import DtypeError
from sggp.fitting.selection import ROUGHEST_FIRST
from sggp.hyperparameters.auto import choose_optimizer
from sggp.hyperparameters.defaults import named_kernel, noise_prior
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax


@dataclass(frozen=True)
class StartingPoint:
    """A kernel to start from.

    Attributes:
        kernel: a GPyTorch kernel; never changed by a fit.
        standardise: whether it expects standardised inputs (kernels chosen by name, except "tanimoto").
        white_noise: noise variance that came with the kernel (a scikit-learn WhiteKernel), in units of
            normalised targets.
        white_noise_fixed: whether that noise is to stay as it is.
        noise_prior: a GPyTorch prior for a learnt noise variance, or None.
        candidates: kernels to choose from by nearest-neighbour fits (`fit_selected`), by name; or none.
        smoother: smooth ones to try where the marginal likelihood is exact (`fit_smoothness`), a smooth and a smoother
            one, or none.
    """

    kernel: Kernel
    standardise: bool = False
    white_noise: float | None = None
    white_noise_fixed: bool = False
    noise_prior: Any = None
    candidates: Mapping[str, Kernel] = field(default_factory=dict)
    smoother: tuple[Kernel, ...] = ()


def starting_point(
    kernel: Any, input_dim: int, rows: int, blocks: tuple[tuple[int, ...], ...] = ()
) -> StartingPoint:
    """The starting point for None, a kernel name, a GPyTorch kernel or a scikit-learn kernel, and so many rows.

    Columns that code one category (`blocks`) count as one and share a length scale where the kernel is a name.

    Raises:
        DtypeError: anything else. InputError: an unknown name. UnsupportedKernel: a kernel that cannot be
            used.
    """
    if kernel is None or isinstance(kernel, str):
        name, many = "matern32" if kernel is None else kernel, choose_optimizer(rows) != "exact"
        every = ROUGHEST_FIRST if kernel is None else ()
        return StartingPoint(
            named_kernel(name, input_dim, many_rows=many, blocks=blocks),
            name != "tanimoto",
            noise_prior=noise_prior(name),
            candidates={
                other: named_kernel(other, input_dim, many_rows=many, blocks=blocks) for other in every
            },
            smoother=()
            if many or kernel is not None
            else tuple(named_kernel(other, input_dim, blocks=blocks) for other in ("matern52", "rbf")),
        )
    if isinstance(kernel, Kernel):
        tanimoto = any(isinstance(part, TanimotoMinMax | TanimotoDotProduct) for part in kernel.modules())
        return StartingPoint(kernel, noise_prior=noise_prior("tanimoto" if tanimoto else "matern32"))
    from sklearn.gaussian_process.kernels import Kernel as ScikitLearnBase

    if isinstance(kernel, ScikitLearnBase):
        from sggp.fitting.scikit_kernels import from_scikit_learn

        converted = from_scikit_learn(kernel, input_dim)
        return StartingPoint(
            converted.kernel, white_noise=converted.noise_variance, white_noise_fixed=converted.noise_fixed
        )
    raise DtypeError(
        f"kernel must be None, a name, a GPyTorch kernel or a scikit-learn kernel, got {type(kernel).__name__}."
    )

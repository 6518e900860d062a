"""What a fit starts from: any way of naming a kernel, turned into a GPyTorch kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        candidates: makes the kernels to choose from by nearest-neighbour fits (`fit_selected`), by name; or None.
        smoother: smooth ones to try where the marginal likelihood is exact (`fit_smoothness`), a smooth and a smoother
            one, or none.
    """

    kernel: Kernel
    standardise: bool = False
    white_noise: float | None = None
    white_noise_fixed: bool = False
    noise_prior: Any = None
    candidates: Callable[[], Mapping[str, Kernel]] | None = None
    smoother: tuple[Kernel, ...] = ()


def starting_point(kernel: Any, x: Any, blocks: tuple[tuple[int, ...], ...] = ()) -> StartingPoint:
    """The starting point for None, a kernel name, a GPyTorch kernel or a scikit-learn kernel, and rows x (n, d).

    Columns that code one category (`blocks`) count as one and share a length scale where the kernel is a name. Columns
    without a change do not count: distances do not know of them.

    Raises:
        DtypeError: anything else. InputError: an unknown name. UnsupportedKernel: a kernel that cannot be
            used.
    """
    rows, input_dim = x.shape
    if kernel is None or isinstance(kernel, str):
        name, many = "matern32" if kernel is None else kernel, choose_optimizer(rows) != "exact"
        smooth = () if many or kernel is not None else ("matern52", "rbf")
        varying = None if name == "tanimoto" else _varying(x, blocks)

        def named(other: str) -> Kernel:
            return named_kernel(other, input_dim, many_rows=many, blocks=blocks, varying=varying)

        return StartingPoint(
            named(name),
            name != "tanimoto",
            noise_prior=noise_prior(name),
            candidates=None
            if kernel is not None
            else lambda: {other: named(other) for other in ROUGHEST_FIRST},
            smoother=tuple(named(other) for other in smooth),
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


def _varying(x: Any, blocks: tuple[tuple[int, ...], ...]) -> int | None:
    """Columns whose values differ beyond rounding, a block as one; None where none do."""
    changes = [bool(change) for change in (abs(x - x[:1]) > 1e-14 * abs(x[:1])).any(0)]
    coded = {column for block in blocks for column in block}
    alone = sum(change for column, change in enumerate(changes) if column not in coded)
    return alone + sum(any(changes[column] for column in block) for block in blocks) or None

"""Values of kernels and what is differentiated in them by formulas: the usual constraint, log-normal priors.

Autograd would take longer over these few numbers than over the rows of a small table.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from gpytorch.constraints import GreaterThan, Positive
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.priors import LogNormalPrior
from gpytorch.utils.transforms import inv_softplus
from torch import Tensor
from torch.nn.functional import softplus

__all__ = [
    "LogNormals",
    "PriorTerm",
    "Value",
    "backward",
    "expressible",
    "is_softplus",
    "log_density",
    "of_value",
]

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_VALUES = {
    Kernel._lengthscale_param: ("lengthscale", Kernel.lengthscale),
    ScaleKernel._outputscale_param: ("outputscale", ScaleKernel.outputscale),
}


def is_softplus(constraint: Any) -> bool:
    """Whether a constraint is GPyTorch's usual one: value = lower bound + log(1 + e^raw)."""
    if type(constraint) not in (Positive, GreaterThan) or constraint._inv_transform is not inv_softplus:
        return False
    transform = constraint._transform
    return type(transform) is torch.nn.Softplus and (transform.beta, transform.threshold) == (1, 20)


class Value:
    """A value of a kernel, behind its raw parameter and constraint.

    Args:
        kernel: its parameters may change but not be replaced. name: `lengthscale` or `outputscale`.
    """

    def __init__(self, kernel: Any, name: str) -> None:
        constraint = getattr(kernel, f"raw_{name}_constraint")
        self._kernel, self._name = kernel, name
        self.raw: Tensor = getattr(kernel, f"raw_{name}")
        self._lower: Tensor | None = constraint.lower_bound if is_softplus(constraint) else None

    def now(self) -> Tensor:
        """The present value, without a graph."""
        with torch.no_grad():
            if self._lower is None:
                return getattr(self._kernel, self._name)
            return softplus(self.raw) + self._lower

    def height(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Where `backward` begins with this derivative in the value: at the raw parameter where there is a formula."""
        if self._lower is not None:
            return self.raw, (slope * self.raw.detach().sigmoid()).to(self.raw)
        with torch.enable_grad():
            return getattr(self._kernel, self._name), slope


def backward(heights: list[tuple[Tensor, Tensor]]) -> None:
    """Add to the gradients of leaves, from some tensors and the derivatives in them; leaves among them take theirs."""
    others: list[tuple[Tensor, Tensor]] = []
    for tensor, slope in heights:
        if tensor.is_leaf:
            tensor.grad = slope if tensor.grad is None else tensor.grad + slope
        else:
            others.append((tensor, slope))
    if others:
        torch.autograd.backward([tensor for tensor, _ in others], [slope for _, slope in others])


class PriorTerm(NamedTuple):
    """A log-normal prior on the values c = lower + e^u of some coordinates.

    Attributes:
        start: place of the first of them in the vector of coordinates. shape: of the values.
        lower: their lower bound. prior: a GPyTorch prior. counts: (m,) what each density is divided by, or None.
    """

    start: int
    shape: torch.Size
    lower: float
    prior: LogNormalPrior
    counts: Tensor | None


def of_value(module: Any, closure: Any) -> str | None:
    """Which value of a kernel its prior's closure reads, by name; None where it is not simply one."""
    name, inherited = _VALUES.get(getattr(closure, "__func__", None), ("", None))
    return name if name and getattr(type(module), name, None) is inherited else None


def expressible(prior: Any, shape: torch.Size) -> bool:
    """Whether a prior is log-normal, one density for each of the values of this shape."""
    if type(prior) is not LogNormalPrior or prior._transform is not None:
        return False
    own = (part.shape[::-1] for part in (prior.loc, prior.scale))
    return all(
        len(p) <= len(shape) and all(a in (1, b) for a, b in zip(p, shape[::-1], strict=False)) for p in own
    )


def log_density(prior: Any, value: Tensor) -> Tensor:
    """The log density of a GPyTorch prior; of a log-normal one by its formula, without checks at every evaluation."""
    if type(prior) is not LogNormalPrior or prior._transform is not None:
        return prior.log_prob(value)
    log, spread = value.log(), prior.scale
    return -0.5 * ((log - prior.loc) / spread).square() - log - (spread.log() + _HALF_LOG_TWO_PI)


class LogNormals:
    """Σ_i w_i log p_i(c_i), p_i log-normal, c_i = lower_i + e^(u_i); its gradient by the formula, without a graph.

    d/du_i = −w_i ((log c_i − μ_i)/σ_i² + 1) e^(u_i)/c_i.

    Args:
        terms: the priors.
    """

    def __init__(self, terms: list[PriorTerm]) -> None:
        where: list[int] = []
        rows: list[tuple[float, float, float, float]] = []
        for term in terms:
            size = term.shape.numel()
            where += range(term.start, term.start + size)
            loc, scale = (
                v.expand(term.shape).reshape(-1).tolist() for v in (term.prior.loc, term.prior.scale)
            )
            counts = [1.0] * size if term.counts is None else term.counts.tolist()
            rows += zip([term.lower] * size, loc, scale, counts, strict=True)
        self._where = np.array(where, dtype=int)
        self._lower, self._loc, self._scale, shared = np.array(rows, dtype=float).reshape(-1, 4).T.copy()
        self._weight = 1.0 / shared
        self._constant = float((self._weight * (np.log(self._scale) + _HALF_LOG_TWO_PI)).sum())

    @np.errstate(all="ignore")
    def __call__(self, u: Tensor) -> tuple[float, Tensor]:
        """Value and gradient (p,) at u (p,)."""
        above = np.exp(u.detach().numpy()[self._where])
        value = self._lower + above
        log = np.log(value)
        z = (log - self._loc) / self._scale
        density = -float((self._weight * (0.5 * z * z + log)).sum()) - self._constant
        gradient = np.zeros(len(u))
        np.subtract.at(gradient, self._where, self._weight * (z / self._scale + 1.0) * above / value)
        return density, torch.from_numpy(gradient)

"""What a fit returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.hyperparameters.coordinates import Coordinates


@dataclass(frozen=True)
class FitResult:
    """Learnt hyperparameters and how they were found.

    Attributes:
        kernel: a new kernel (float64) holding the learnt values; the caller's kernel is never changed.
        noise_variance: the noise variance in squared units of y: a float, or the (n,) tensor that was given.
        mean: the constant mean in units of y; a (t,) tensor when y has several columns.
        trace: one dict per recorded step: `step`, `value` (log marginal likelihood plus log prior, per row
            and target), `gradient_norm`, `seconds`, `values` (constrained values by name), in exact fits `rows`, the
            number that the value is of.
        log_marginal_likelihood: without priors, summed over rows and targets; for the nearest-neighbour
            likelihood an estimate of the approximate likelihood, with `log_marginal_likelihood_error` its
            standard error (0 if exact).
        method: "exact", "nearest-neighbour", "iterative", "em", "fixed" (nothing was optimised) or "constant
            target".
        seconds: wall-clock seconds.
        converged: whether the stopping rule was met before the budget ran out.
        gradient_norm: largest entry of the gradient of `value` in log coordinates at the end.
        message: one line on why it stopped.
        unidentified: input columns that the data say nothing (or nothing separate) about: column -> reason.
        steps: optimiser steps or function evaluations.
        posterior: the `sggp.posterior.Posterior` at these values where the fit has solved for one on its way
            ("iterative", "em"), so that no further solve is needed; None otherwise.
    """

    kernel: Kernel
    noise_variance: float | Tensor
    mean: float | Tensor
    trace: list[dict[str, Any]] = field(repr=False)
    log_marginal_likelihood: float
    method: str
    seconds: float
    converged: bool
    gradient_norm: float = 0.0
    log_marginal_likelihood_error: float = 0.0
    message: str = ""
    unidentified: dict[int, str] = field(default_factory=dict)
    steps: int = 0
    posterior: Any = field(default=None, repr=False)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Constrained values by GPyTorch name, with `noise_variance` and `mean`."""
        out = Coordinates(self.kernel).values()
        for name, value in (("noise_variance", self.noise_variance), ("mean", self.mean)):
            out[name] = value.tolist() if isinstance(value, Tensor) else value
        return out

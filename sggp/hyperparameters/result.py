"""What a fit returns, and the trace that it keeps on its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.hyperparameters.coordinates import Coordinates
from sggp.hyperparameters.unidentified import Unidentified
from sggp.running import tell

Callback = Callable[[dict[str, Any]], None]


@dataclass
class Trace:
    """Records of a fit in the making; the callback gets some of them, and who listens hears of all.

    `steps` is how many there will be at most; None where nobody knows.
    """

    started: float
    callback: Callback | None = None
    steps: int | None = None
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: int, value: float, gradient_norm: float, values: dict[str, Any], **more: Any) -> None:
        """One more record, with the seconds since the start; see `FitResult.trace`."""
        seconds = time.perf_counter() - self.started
        self.records.append(
            {
                "step": step,
                "value": value,
                "gradient_norm": gradient_norm,
                "seconds": seconds,
                "values": values,
            }
            | more
        )
        tell("hyperparameters", step, self.steps, value=value, gradient_norm=gradient_norm)

    def report(self) -> None:
        """Call the callback with the latest record."""
        if self.callback is not None and self.records:
            self.callback(self.records[-1])


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
        method: "exact", "nearest-neighbour", "subset", "iterative", "em", "fixed" (nothing was optimised) or
            "constant target".
        seconds: wall-clock seconds.
        converged: whether the stopping rule was met before the budget ran out.
        gradient_norm: largest entry of the gradient of `value` in log coordinates at the end.
        message: one line on why it stopped.
        unidentified_columns: input columns of whose length scales the data say nothing, or nothing separate.
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
    unidentified_columns: tuple[Unidentified, ...] = ()
    steps: int = 0
    posterior: Any = field(default=None, repr=False)

    @property
    def unidentified(self) -> dict[int, str]:
        """`unidentified_columns` to read: column -> reason."""
        return {record.column: record.reason for record in self.unidentified_columns}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Constrained values by GPyTorch name, with `noise_variance` and `mean`."""
        out = Coordinates(self.kernel).values()
        for name, value in (("noise_variance", self.noise_variance), ("mean", self.mean)):
            out[name] = value.tolist() if isinstance(value, Tensor) else value
        return out

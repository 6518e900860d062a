"""Adam on an estimated gradient, and the rule that ends it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.hyperparameters.adam import Adam
from sggp.hyperparameters.iterative.gradient import Estimate, PathwiseGradient
from sggp.hyperparameters.problem import public_mean
from sggp.hyperparameters.result import Trace
from sggp.running import stop_asked, time_is_up

__all__ = ["Ascent", "AscentSettings"]

BETAS = (0.9, 0.9)
"""Adam's memory of the gradient and of its size: short, for the gradient is a smooth function of the coordinates, and
the size that it had far from the optimum is of no use near it."""
_JUDGE_EVERY = 5
"""Steps between two estimates of the gradient's standard error, where the stopping rule is asked."""
_PARTS = 8
"""Groups of probes that the standard error is estimated from."""
_LAST_RATE = 0.1
"""The last step size as a share of the first, on a cosine."""


@dataclass(frozen=True)
class AscentSettings:
    """Steps allowed, Adam's first step size, and the mean squared z-score of the gradient that ends the ascent."""

    max_steps: int
    learning_rate: float
    tolerance: float


class Ascent:
    """Adam on the estimated gradient; the last place where it was estimated is the result."""

    def __init__(self, gradient: PathwiseGradient, settings: AscentSettings, trace: Trace) -> None:
        self.gradient, self.settings, self.trace = gradient, settings, trace
        self.u = gradient.coordinates.vector()
        self.optimizer = Adam(BETAS)
        self.error = torch.full_like(self.u, math.nan)
        self.z_square = math.inf
        self.settled = False

    def run(self) -> Estimate:
        """Steps until the rule is met or the budget is spent; the last estimate."""
        previous: tuple[Tensor, Tensor] | None = None
        step = 0
        while True:
            final = step == self.settings.max_steps - 1
            judged = step % _JUDGE_EVERY == 0 or final
            found = self.gradient.estimate(self.u.detach().clone(), parts=_PARTS if judged else 1)
            if judged:
                self.error, self.z_square = found.error, found.z_square
            gain = 0.0
            if previous is not None:
                # the trapezium rule along the step: ΔL ≈ ½ (g + g')ᵀΔu
                gain = float(0.5 * (found.gradient + previous[1]) @ (self.u - previous[0]))
            previous = self.u.detach().clone(), found.gradient
            self._record(step, found, gain)
            self.settled = self.u.numel() == 0 or (judged and self.z_square < self.settings.tolerance)
            if self.settled or final or stop_asked() is not None or time_is_up():
                return found
            self._advance(found.gradient, step)
            step += 1

    def _advance(self, gradient: Tensor, step: int) -> None:
        settings = self.settings
        progress = step / max(1, settings.max_steps - 1)
        share = _LAST_RATE + 0.5 * (1 - _LAST_RATE) * (1 + math.cos(math.pi * progress))
        self.gradient.coordinates.climb(self.u, gradient, self.optimizer, settings.learning_rate * share)

    def _record(self, step: int, found: Estimate, gain: float) -> None:
        coordinates = self.gradient.coordinates
        count, records = self.gradient.data.y.numel(), self.trace.records
        target, probe, worst = found.solved.residuals
        size = found.gradient.numel()
        self.trace.add(
            step,
            (records[-1]["value"] if records else 0.0) + gain / count,
            float(found.gradient.abs().max()) / count if size else 0.0,
            {**coordinates.values(), "mean": public_mean(found.solved.mean)},
            gradient_error=float(self.error.max()) / count if size else 0.0,
            z_square=self.z_square,
            residual={"target": target, "probe": probe, "worst_probe": worst},
            epochs=self.gradient.solves.epochs,
        )
        self.trace.report()

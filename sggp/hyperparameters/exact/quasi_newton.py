"""Quasi-Newton descent from a Hessian that is known beforehand, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from sggp.hyperparameters.coordinates import Coordinates
from sggp.running import time_is_up

__all__ = ["Box", "Descent", "StoppingRule", "descend", "differenced_hessian", "lbfgs", "positive_part"]

OUT_OF_TIME = "the time was up"
Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
_LONGEST_STEP = 2.0  # of a coordinate; logarithms, so a factor e²
_ARMIJO, _TRIALS = 1e-4, 12
_DAMPING = 0.2  # Powell's
_FLAT = 100.0  # times the tolerance: what the model promises is believed where the gradient is below it
_LEAST_CURVATURE = 1e-4  # of the largest


@dataclass(frozen=True)
class Box:
    """Bounds of the coordinates, lower and upper (p,), which may be infinite."""

    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def of(cls, coordinates: Coordinates) -> Box:
        """The bounds of hyperparameters."""
        lower, upper = coordinates.bounds()
        return cls(lower.numpy(), upper.numpy())

    def clip(self, u: np.ndarray) -> np.ndarray:
        """The nearest point within."""
        return np.clip(u, self.lower, self.upper)

    def free(self, u: np.ndarray, gradient: np.ndarray) -> np.ndarray:  # (p,) bool
        """Which coordinates a step down the gradient can move."""
        return ~(((u <= self.lower) & (gradient > 0)) | ((u >= self.upper) & (gradient < 0)))


@dataclass(frozen=True)
class StoppingRule:
    """When a descent ends.

    Attributes:
        tolerance: once the largest entry of the gradient (of coordinates that can move) is below it.
        gain: once the quadratic model expects to win less than this, and the gradient is below 100 tolerances.
        max_iterations: after so many steps.
    """

    tolerance: float
    gain: float
    max_iterations: int


@dataclass(frozen=True)
class Descent:
    """Where a descent ended, u (p,), whether it is done or stuck (neither: the iterations ran out), and why."""

    u: np.ndarray
    value: float
    converged: bool
    stuck: bool
    message: str


def positive_part(hessian: np.ndarray) -> np.ndarray:  # (p, p) -> (p, p)
    """The symmetric part with the absolute values of its eigenvalues, 1e-4 of the largest at least."""
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    size = np.abs(values)
    return (vectors * np.maximum(size, max(_LEAST_CURVATURE * size.max(), 1e-300))) @ vectors.T


def differenced_hessian(
    objective: Objective, u: np.ndarray, gradient: np.ndarray, upper: np.ndarray, *, step: float = 1e-3
) -> np.ndarray:  # (p, p)
    """The Hessian at u from p further gradients, one step ahead in each coordinate (back at an upper bound)."""
    rows = []
    for j in range(len(u)):
        moved = u.copy()
        moved[j] += step if u[j] + step <= upper[j] else -step
        rows.append((objective(moved)[1] - gradient) / (moved[j] - u[j]))
    return 0.5 * (np.array(rows) + np.array(rows).T)


def lbfgs(
    objective: Objective,
    u: np.ndarray,
    box: Box,
    callback: Callable[[], None] | None = None,
    **options: float,
) -> OptimizeResult:
    """Minimise by scipy's L-BFGS-B, which needs nothing to start from; `callback` is called after each iteration."""

    def after(_: np.ndarray) -> None:
        if callback is not None:
            callback()
        if time_is_up():
            raise StopIteration  # scipy's way to end with what there is

    return minimize(
        objective,
        u,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(box.lower, box.upper, strict=True)),
        callback=after,
        options=options,
    )


def descend(
    objective: Objective,
    u: np.ndarray,
    hessian: np.ndarray,
    box: Box,
    rule: StoppingRule,
    callback: Callable[[], None] | None = None,
) -> Descent:
    """Minimise by damped BFGS steps, the first of them with the Hessian that is given.

    Args:
        objective: u (p,) -> value and gradient (p,); at least finite where steps may end.
        u: the start. hessian: (p, p), positive definite. box: bounds.
        rule: when to stop. callback: called after each step.

    Cost: one evaluation per step where the model fits.

    Source: Nocedal & Wright 2006, procedure 18.2 (damped BFGS), section 16.7 (bounds by projection).
    """
    u = box.clip(u)
    value, gradient = objective(u)
    for _ in range(rule.max_iterations):
        free = box.free(u, gradient)
        steepest = np.abs(gradient[free]).max(initial=0.0)
        if steepest <= rule.tolerance:
            return Descent(u, value, True, False, "the gradient is below the tolerance")
        direction = np.zeros_like(u)
        # p = −B⁻¹g of the coordinates that can move; the model −½ gᵀp is what it promises (equations 6.1, 6.2)
        direction[free] = -np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        if -0.5 * gradient @ direction <= rule.gain and steepest <= _FLAT * rule.tolerance:
            return Descent(u, value, True, False, f"no more than {rule.gain:.1e} to win per row")
        direction *= min(1.0, _LONGEST_STEP / np.abs(direction).max())
        found = _search(objective, u, (value, gradient), direction, box)
        if found is None:
            return Descent(u, value, False, True, "no lower value along the direction of search")
        moved, value, slope = found
        hessian = _updated(hessian, moved - u, slope - gradient)
        u, gradient = moved, slope
        if callback is not None:
            callback()
        if time_is_up():
            return Descent(u, value, False, False, OUT_OF_TIME)
    return Descent(u, value, False, False, "the iterations ran out")


def _search(
    objective: Objective, u: np.ndarray, here: tuple[float, np.ndarray], direction: np.ndarray, box: Box
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """A point on the projected path that is lower by a share of what the slope promises, with its gradient."""
    (value, gradient), length = here, 1.0
    for _ in range(_TRIALS):
        moved = box.clip(u + length * direction)
        promised = float(gradient @ (moved - u))
        trial, slope = objective(moved)
        if promised < 0 and trial <= value + _ARMIJO * promised:  # equation 3.4
            return moved, trial, slope
        bend = trial - value - promised
        length *= min(0.5, max(0.1, -0.5 * promised / bend)) if bend > 0 else 0.5  # equation 3.58
    return None


def _updated(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """BFGS with Powell's damping, which keeps the matrix positive definite."""
    image = hessian @ step
    model, seen = float(step @ image), float(step @ change)
    if model <= 0:
        return hessian
    if seen < _DAMPING * model:  # procedure 18.2: y becomes θy + (1 − θ)Bs, so that sᵀy stays positive
        share = (1 - _DAMPING) * model / (model - seen)
        change = share * change + (1 - share) * image
        seen = float(step @ change)
    # B + yyᵀ/sᵀy − Bs(Bs)ᵀ/sᵀBs, equation 18.16
    return hessian + np.outer(change, change) / seen - np.outer(image, image) / model

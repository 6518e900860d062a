"""How smooth a kernel explains the data best: the choice of family that the default kernel makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import InputError
from sggp.evidence.aside import one_row_an_input, repeated_inputs
from sggp.evidence.drift import drifts, gain_ahead
from sggp.evidence.judging import judge_left_out
from sggp.evidence.leave_one_out import Observed
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.gram import stationary_parts
from sggp.hyperparameters.result import FitResult
from sggp.running import time_is_up

EVIDENCE = 1.0  # nats in all by which it must win an exact marginal likelihood
_JUDGED_ROWS = 200  # from which on left-out rows decide instead
_CLIMB = 0.05  # nats per row between the last record and the one before the last two
_STRETCH = 2.0  # of the length scales: near the origin a rougher kernel decays faster
_SHRINK = 0.75  # of those of Matérn-5/2, for an RBF


def fit_smoothness(
    kernels: tuple[Kernel, Kernel, Kernel],
    noise: float | None,
    fit: Callable[..., FitResult],
    table: Callable[[FitResult], Observed],
) -> FitResult:
    """Exact fits of kernels of different smoothness, and the one that explains the data best.

    The rough kernel starts from what the smooth one learnt. From 200 rows on every row is predicted from all others by
    both, and the smooth one must win beyond the standard errors of the differences, as in
    `sggp.evidence.judging.judge`; where most rows repeat an input, however few they are, every input by the mean of its
    targets, since copies of a row exaggerate any likelihood. Fewer rows tell too little: there the rough one must win
    by a nat of marginal likelihood, for a smooth posterior finds optima faster. Where a column only grows or falls, the
    smooth one must win on rows ahead as well, see `sggp.evidence.drift`.

    Where the smooth one wins by left-out rows, the smoothest, from where that one ended, may win over it in the same
    way, and by CRPS beyond two standard errors: likelihoods of infinitely smooth functions are too sure of themselves.

    Args:
        kernels: a rough, a smooth and the smoothest one, scaled stationary kernels with their priors; copied, never
            changed.
        noise: the noise variance that the first search starts from; None takes its default.
        fit: (kernel, initial_noise_variance=) -> FitResult. table: the rows as such a result has them.

    Returns:
        FitResult of the winner; the message says what decided, and by how much the likelihoods of the first two differ.

    Cost: two or three fits; and `judge_left_out` of two kernels for each choice.
    """
    rough, smooth, smoothest = kernels
    first = fit(smooth, initial_noise_variance=noise)
    if first.method != "exact" or time_is_up():
        return first
    trial = fit(started(rough, first.kernel), initial_noise_variance=learnt_noise(first))
    gain = trial.log_marginal_likelihood - first.log_marginal_likelihood
    message = f"{_name(rough)} {gain:+.2f} nats beside {_name(smooth)}"
    contest = _Contest(table, trial)
    if not contest.by_rows:
        wins = gain < EVIDENCE
        ahead, told = contest.ahead(first, trial) if wins else (False, "")
        winner = first if wins and ahead else trial
        return with_all_steps(winner, [first, trial], f"{winner.message}; {message}{told}")
    wins, told = contest.smoother_wins(first, trial)
    fits, winner, message = [first, trial], first if wins else trial, message + told
    if wins and not time_is_up():
        fits.append(
            fit(started(smoothest, first.kernel, _SHRINK), initial_noise_variance=learnt_noise(first))
        )
        wins, told = contest.smoother_wins(fits[-1], first, by_crps=True)
        winner, message = fits[-1] if wins else first, message + told
    return with_all_steps(winner, fits, f"{winner.message}; {message}")


class _Contest:
    """Fits of the same rows against each other.

    Attributes:
        by_rows: whether left-out rows decide.
    """

    def __init__(self, table: Callable[[FitResult], Observed], fit: FitResult) -> None:
        self._table, x = table, table(fit).x
        self._groups, self._drifts = repeated_inputs(x), drifts(x)
        self.by_rows = len(x) >= _JUDGED_ROWS or self._groups is not None

    def smoother_wins(
        self, smoother: FitResult, rougher: FitResult, *, by_crps: bool = False
    ) -> tuple[bool, str]:
        """Whether it predicts left-out rows better, and rows ahead where there are such; and what decided."""
        both = {_name(fit.kernel): self._table(fit) for fit in (rougher, smoother)}
        if self._groups is not None:
            both = {name: one_row_an_input(each, self._groups) for name, each in both.items()}
        chosen, reason = judge_left_out(both, by_crps=by_crps)
        if chosen == _name(rougher.kernel):
            return False, f"; by rows left out {reason}"
        wins, told = self.ahead(smoother, rougher)
        return wins, f"; by rows left out {reason}{told}"

    def ahead(self, smoother: FitResult, rougher: FitResult) -> tuple[bool, str]:
        """Whether it wins on rows ahead, or there are none; and by how much."""
        if not self._drifts:
            return True, ""
        gain = gain_ahead(self._table(smoother), self._table(rougher))
        told = f"; on rows ahead {_name(smoother.kernel)} {gain} beside {_name(rougher.kernel)}"
        return gain.wins, told


def started(kernel: Kernel, learnt: Kernel, stretch: float = _STRETCH) -> Kernel:
    """A copy of `kernel` with the output scale and, stretched, the length scales of another."""
    kernel = copy_kernel(kernel)
    ours, theirs = stationary_parts(kernel), stationary_parts(learnt)
    if ours is None or theirs is None or len(ours[0]) != 1 or len(theirs[0]) != 1:
        raise InputError("both kernels must be ScaleKernel(stationary kernel).")
    ours[1].lengthscale = stretch * theirs[1].lengthscale.detach()
    ours[0][0].outputscale = theirs[0][0].outputscale.detach()
    return kernel


def climbing(fit: FitResult) -> bool:
    """Whether the last records still rise by 0.05 nats a row."""
    values = [record["value"] for record in fit.trace[-3:]]
    return len(values) == 3 and values[-1] - values[0] > _CLIMB


def learnt_noise(fit: FitResult) -> float | None:
    """The noise that a search starts from; None where it was given per point."""
    return None if isinstance(fit.noise_variance, Tensor) else fit.noise_variance


def _name(kernel: Kernel) -> str:
    parts = stationary_parts(kernel)
    nu = getattr(parts[1], "nu", None) if parts is not None else None
    if nu is not None:
        return f"Matérn-{int(2 * nu)}/2"
    return type(kernel if parts is None else parts[1]).__name__.removesuffix("Kernel")


def with_all_steps(winner: FitResult, fits: list[FitResult], message: str) -> FitResult:
    """One of some fits, with the time, steps and records of all."""
    trace: list[dict[str, Any]] = []
    seconds, steps = 0.0, 0
    for fit in fits:
        for record in fit.trace:
            trace.append({**record, "step": steps + record["step"], "seconds": seconds + record["seconds"]})
        seconds, steps = seconds + fit.seconds, steps + fit.steps
    return replace(winner, trace=trace, seconds=seconds, steps=steps, message=message)

"""One timed run of each contender, for a process of its own: set-up, solve and predictions on the test rows.

Every function here loads its data and warms up with the clock stopped, takes the time from the inputs to the
predictions (K is never given), and measures the distance to the exact predictions with the clock stopped again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sggp.solvers
from lib.common import seeded
from lib.peers import dense_bytes, dense_cholesky, gpytorch_columns, gpytorch_mean, textbook_sdd
from lib.systems import System, uci_system
from sggp.kernels import as_covariance
from sggp.operators import KernelOperator
from sggp.posterior import condition
from sggp.posterior.data import draw_noise, draw_prior
from sggp.random import streams
from sggp.solvers import Auto, ConjugateGradients, Solution

__all__ = ["Case", "Run", "climb", "dense_run", "exact", "gpytorch_run", "ours_run", "sdd_run"]

SEED, FEATURES, DENSE_ROWS, WARM_ROWS = 0, 2048, 20_000, 400


@dataclass(frozen=True)
class Case:
    """What is solved: a table (cut to `rows`), its mean or `samples` sample columns, and where the truth is kept."""

    name: str
    rows: int | None
    samples: int
    reference: Path
    memory_gib: float

    def system(self) -> System:
        return uci_system(self.name, self.rows)

    @property
    def memory_budget(self) -> float:
        return self.memory_gib * 2**30

    def error(self, predicted: Tensor) -> float:
        """Relative 2-norm on the test rows; of the worst column for samples. (m,) or (m, s)."""
        truth = torch.as_tensor(np.load(self.reference)["samples" if self.samples else "mean"])
        difference = predicted.reshape(truth.shape) - truth
        return float((difference.norm(dim=0) / truth.norm(dim=0)).max())


@dataclass(frozen=True)
class Run:
    """Seconds, passes over K (None where they cannot be counted), distance to exact, and a remark."""

    seconds: float
    epochs: float | None
    error: float
    note: str
    solution: Solution | None = None


def right_hand_sides(system: System, samples: int) -> Tensor:  # -> (n, 1 + samples)
    """The target, and the sample columns f⁰(x) + ε that `sggp.condition` draws from the same seed."""
    draw, eps, _ = streams(seeded(SEED), "prior", "noise", "solver")
    columns = [system.y[:, None]]
    if samples:
        prior = draw_prior(system.kernel, system.x, samples, FEATURES, draw)
        noise = draw_noise(system.noise_vector, samples, eps)
        columns.append(prior.features.apply(system.x, prior.weights) + noise)
    return torch.cat(columns, 1)


def exact(case: Case) -> str:
    """Write the exact predictions of the mean and of all sample columns; says how they were found.

    A float64 Cholesky factor up to 20,000 distinct rows; beyond, our conjugate gradients, refined until the residual
    measured in float64 is 1e-8 for the mean and 1e-6 for samples.
    """
    raw = case.system()
    system, columns = raw.merged(right_hand_sides(raw, case.samples))
    if system.n <= DENSE_ROWS:
        found, how = dense_cholesky(system, columns, torch.float64), "float64 Cholesky"
    else:
        found, how = _refined(system, columns, case.memory_budget)
    case.reference.parent.mkdir(parents=True, exist_ok=True)
    truth = {"mean": found[:, 0].numpy(), "samples": found[:, 1:].numpy(), "how": np.array(how)}
    with case.reference.open("wb") as stream:
        np.savez(stream, **truth)
    return how


def _refined(system: System, columns: Tensor, budget: float) -> tuple[Tensor, str]:
    tolerance = torch.full((columns.shape[1],), 1e-6, dtype=torch.float64)
    tolerance[0] = 1e-8
    start, solution = None, None
    for dtype in (torch.float32, torch.float64):  # the second only where the first did not get there
        operator = KernelOperator(
            system.kernel, system.x, system.noise_vector, dtype=dtype, memory_budget=budget
        )
        solution = ConjugateGradients().solve(
            operator, columns, start, tolerance=tolerance, generator=seeded(SEED), on_failure="return"
        )
        if solution.converged:
            break
        start = solution.x
    how = f"our CG, float64 residuals: mean {float(solution.residual[0]):.0e}"
    if columns.shape[1] > 1:
        how += f", worst sample {float(solution.residual[1:].max()):.0e}"
    wide = as_covariance(system.kernel, dtype=torch.float64)
    found = wide.matmul(system.xs, system.x, solution.x.double())
    return found, how if solution.converged else f"{how} (NOT converged)"


def climb(
    call: Callable[..., Run | str],
    case: Case,
    rungs: tuple[tuple[Any, ...], ...],
    targets: tuple[float, ...],
    cap: float,
) -> list[Run] | str:
    """Each rung of a ladder from scratch, until every target is met or a run takes longer than the cap."""
    out: list[Run] = []
    for rung in rungs:
        run = call(case, *rung)
        if isinstance(run, str):
            return run
        out.append(run)
        if run.error <= min(targets) or run.seconds > cap or "budget_spent" in run.note:
            break
    return out


def ours_run(case: Case, method: str, tolerance: float, max_seconds: float) -> Run:
    """`sggp.condition` as users call it, float32, repeats merged, the method at its defaults."""
    system, solver = case.system(), getattr(sggp.solvers, method)()

    def solve(x: Tensor, y: Tensor, samples: int, level: float) -> tuple[Tensor, Solution]:
        posterior = condition(
            system.kernel,
            x,
            y,
            noise_variance=system.noise,
            solver=solver,
            num_samples=samples,
            num_features=FEATURES,
            tolerance=level,
            max_seconds=max_seconds,
            generator=seeded(SEED),
            dtype=torch.float32,
            on_failure="return",
            memory_budget=case.memory_budget,
        )
        if not samples:
            return posterior.mean(system.xs), posterior.solution
        weights = posterior.solution.x[:, 1:].double()
        return posterior.covariance.matmul(system.xs, posterior.points, weights), posterior.solution

    solve(system.x[:WARM_ROWS], system.y[:WARM_ROWS], min(case.samples, 2), 0.1)
    begin = time.perf_counter()
    predicted, solution = solve(system.x, system.y, case.samples, tolerance)
    seconds = time.perf_counter() - begin
    states = sorted({str(status) for status in solution.status})
    note = ", ".join([*states, *([solution.method] if isinstance(solver, Auto) else [])])
    bare = replace(solution, x=solution.x[:0])
    return Run(seconds, solution.epochs, case.error(predicted.double()), note, bare)


def _peer(case: Case, merged: bool) -> tuple[System, Tensor]:
    raw = case.system()
    columns = right_hand_sides(raw, case.samples)
    system, columns = raw.merged(columns) if merged else (raw, columns)
    return system, columns[:, 1:] if case.samples else columns


def gpytorch_run(case: Case, rank: int, merged: bool, tolerance: float) -> Run:
    system, columns = _peer(case, merged)
    warm = replace(system, x=system.x[:300], y=system.y[:300], xs=system.xs[:10], noise=0.1)
    gpytorch_columns(warm, columns[:300], 1e-2, rank)
    begin = time.perf_counter()
    if case.samples or merged:
        predicted, products, note = gpytorch_columns(system, columns, tolerance, rank)
    else:
        predicted, products, note = gpytorch_mean(system, tolerance, rank)
    seconds = time.perf_counter() - begin
    return Run(seconds, products, case.error(predicted), note)


def dense_run(case: Case, merged: bool, available_gib: float) -> Run | str:
    """A plain float32 factor; a sentence where K and its factor are more than the memory there is."""
    system, columns = _peer(case, merged)
    needed = dense_bytes(system, torch.float32) / 2**30
    if needed > available_gib:
        return f"skipped: K and its factor take {needed:.1f} GiB, {available_gib:.1f} GiB are free"
    warm = replace(system, x=system.x[:300], noise=0.1)
    dense_cholesky(warm, columns[:300])
    begin = time.perf_counter()
    predicted = dense_cholesky(system, columns)
    seconds = time.perf_counter() - begin
    return Run(seconds, 1.0, case.error(predicted), "")


def sdd_run(case: Case, targets: tuple[float, ...], cap_seconds: float) -> dict[float, Run] | str:
    """Textbook SDD until each target is met or the cap is reached; the note where it is not."""
    system, columns = _peer(case, merged=False)
    reached, steps, note = textbook_sdd(
        system,
        columns,
        case.error,
        targets,
        scaled_step=10.0 if case.samples else 50.0,
        cap_seconds=cap_seconds,
    )
    share = min(512, system.n) / system.n
    out = {t: Run(seconds, share * at, t, "") for t, (seconds, at) in reached.items()}
    return out if len(out) == len(targets) else {**out, **{t: note for t in targets if t not in out}}

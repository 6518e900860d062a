"""The parts of `solvers.py` without peers: low noise, accuracy beside the published figures, precision; the plot."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.common import print_table, run_apart, seeded
from lib.systems import uci_system
from sggp.plotting import new_figure, plot_convergence, to_png
from sggp.posterior import Posterior, condition
from sggp.solvers import Auto

__all__ = ["FIVE", "PARTS", "draw", "how_exact", "verdict"]

FIVE = ("pol", "elevators", "bike", "protein", "keggdirected")
PUBLISHED_RMSE = dict(zip(FIVE, (0.08, 0.35, 0.04, 0.50, 0.08), strict=True))
PUBLISHED_NLL = dict(
    zip(FIVE, (-1.18, 0.38, -2.49, 0.63, -0.92), strict=True)
)  # Lin et al. 2024, means over splits
"""Stochastic dual descent and conjugate gradients alike, means over splits (Lin et al. 2024, table 1)."""
LOW_NOISE = 1e-6
EXACT_VARIANCE_ROWS = 500


def verdict(good: bool) -> str:
    return "met" if good else "MISSED"


def how_exact(reference: Path) -> str:
    return str(np.load(reference)["how"])


def draw(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """Residual over seconds, one panel per table."""
    figure = new_figure(5.0 * len(curves), 3.6)
    panels = np.atleast_1d(figure.subplots(1, len(curves)))
    for axes, (name, solutions) in zip(panels, curves.items(), strict=True):
        plot_convergence(solutions, axes=axes)
        axes.set_title(name)
    path.write_bytes(to_png(figure))
    print(f"plot: {path}\n")


def _posterior(
    system: Any, samples: int, dtype: torch.dtype, memory: float, tolerance: Any, seconds: float
) -> Posterior:
    return condition(
        system.kernel,
        system.x,
        system.y,
        noise_variance=system.noise,
        solver=Auto(),
        num_samples=samples,
        tolerance=tolerance,
        max_seconds=seconds,
        generator=seeded(0),
        dtype=dtype,
        on_failure="return",
        memory_budget=memory * 2**30,
    )


def low_noise_run(name: str, rows: int | None, memory: float, tolerance: float, seconds: float) -> list[str]:
    system = uci_system(name, rows, LOW_NOISE)
    solution = _posterior(system, 0, torch.float32, memory, tolerance, seconds).solution
    return [
        str(solution.status[0]),
        f"{float(solution.residual[0]):.1e} ({solution.residual_kind})",
        f"{solution.epochs:.0f}",
        f"{solution.seconds:.1f}",
        solution.method,
    ]


def low_noise(arguments: argparse.Namespace, memory: float) -> None:
    print(f"## noise variance {LOW_NOISE:g}: does Auto converge (float32 products, float64 refinement)?")
    table = []
    for name in arguments.sets or FIVE:
        for tolerance in (1e-2, 1e-3):
            apart = run_apart(low_noise_run, name, arguments.rows, memory, tolerance, arguments.limit_seconds)
            cells = [apart.failure, *[""] * 4] if apart.value is None else apart.value
            table.append([name, f"{tolerance:g}", *cells, f"{apart.peak_gib:.2f}"])
    print_table(
        ["table", "tolerance", "status", "true residual", "passes", "seconds", "method", "peak GiB"], table
    )


def _nll(y: Tensor, mean: Tensor, variance: Tensor) -> float:
    return float(0.5 * ((2 * torch.pi * variance).log() + (y - mean).square() / variance).mean())


def accuracy_run(name: str, rows: int | None, memory: float, samples: int, seconds: float) -> list[str]:
    system = uci_system(name, rows)
    posterior = _posterior(system, samples, torch.float32, memory, None, seconds)
    mean, noise = posterior.mean(system.xs), float(system.noise)
    rmse = float((mean - system.ys).square().mean().sqrt())
    chosen = torch.randperm(len(system.xs), generator=seeded(1))[:EXACT_VARIANCE_ROWS]
    y, some, points = system.ys[chosen], mean[chosen], system.xs[chosen]
    by_samples = posterior.variance(system.xs, method="samples") + noise
    by_solve = posterior.variance(points, method="solve") + noise
    solution, published = posterior.solution, PUBLISHED_RMSE[name]
    agrees = "dry run" if rows is not None else verdict(abs(rmse - published) < 0.01)
    done = sum(status == "converged" for status in solution.status)
    return [
        f"{rmse:.4f}",
        f"{published:.2f}",
        agrees,
        f"{_nll(y, some, by_solve):.4f}",
        f"{_nll(y, some, by_samples[chosen]):.4f}",
        f"{_nll(system.ys, mean, by_samples):.4f}",
        f"{PUBLISHED_NLL[name]:.2f}",
        f"{done}/{len(solution.status)} columns",
        f"{solution.seconds:.1f}",
    ]


def accuracy(arguments: argparse.Namespace, memory: float) -> None:
    print(
        f"## accuracy at default tolerances, float32, {arguments.samples} samples; NLL with the noise added"
    )
    columns = [
        "table",
        "RMSE",
        "published",
        "to ± .01",
        f"NLL, exact variance ({EXACT_VARIANCE_ROWS} test rows)",
        "NLL, samples (same rows)",
        "NLL, samples (all)",
        "published NLL",
        "converged",
        "seconds",
        "peak GiB",
    ]
    table = []
    for name in arguments.sets or FIVE:
        apart = run_apart(
            accuracy_run, name, arguments.rows, memory, arguments.samples, arguments.limit_seconds
        )
        cells = [apart.failure, *[""] * 8] if apart.value is None else apart.value
        table.append([name, *cells, f"{apart.peak_gib:.2f}"])
    print_table(columns, table)


def precision_run(
    name: str, rows: int | None, memory: float, double: bool, seconds: float
) -> tuple[float, str]:
    system = uci_system(name, rows)
    dtype = torch.float64 if double else torch.float32
    posterior = _posterior(system, 0, dtype, memory, None, seconds)
    rmse = float((posterior.mean(system.xs) - system.ys).square().mean().sqrt())
    return rmse, str(posterior.solution.status[0])


def precision(arguments: argparse.Namespace, memory: float) -> None:
    print("## float32 products beside float64 products, default tolerance")
    table = []
    for name in arguments.sets or ("bike",):
        runs = [
            run_apart(precision_run, name, arguments.rows, memory, double, arguments.limit_seconds)
            for double in (False, True)
        ]
        if any(run.value is None for run in runs):
            table.append([name, *[run.failure or "done" for run in runs], "–", "–"])
            continue
        difference = abs(runs[0].value[0] - runs[1].value[0])
        cells = [f"{run.value[0]:.5f} ({run.value[1]})" for run in runs]
        table.append([name, *cells, f"{difference:.1e}", verdict(difference <= 1e-3)])
    print_table(["table", "RMSE float32", "RMSE float64", "difference", "≤ 1e-3"], table)


PARTS: dict[str, Callable[[argparse.Namespace, float], None]] = {
    "low-noise": low_noise,
    "accuracy": accuracy,
    "precision": precision,
}

"""Parallel Thompson sampling in a box: the experiment of the papers on stochastic solvers, at 5,000 start points.

The function is a draw from a Gaussian process prior on the unit cube, d = 8, Matern-3/2, one length scale, unit output
scale, by random features from a random stream of its own; measurements have a standard deviation of 1e-3. The model
knows kernel and noise. Start points are uniform; each step takes a batch of points at once. (Lin et al. 2024, section
4.3, on accelerators: 50,000 start points and 30 steps of 1,000.)

    ours, ...   as many posterior paths as points, each maximised (`maximise_box`); one line a solver
    turbo       BoTorch: exact joint samples over 5,000 candidates in a trust region about the best point, whose edge is
                doubled after a success and halved after a failure, as TuRBO does; the best of each sample
    random      uniform points

Best value: of the function without noise, at the points measured. Seconds are of the processor, all threads together,
for all steps, and of those the ones of conditioning (prior draws and solves); memory is the most that the process of a
contender held (resident). A file of runs (`--json`) is added to, and what it holds is not run again.

    python benchmarks/thompson.py [--rows 5000] [--batch 1000] [--steps 3] [--seeds 2] [--scales 0.2 0.4]
        [--contenders auto sdd cg ap sap turbo random] [--candidates 2048] [--ascent 60] [--threads 1]
        [--limit 3600] [--json runs.jsonl]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from botorch.generation import MaxPosteriorSampling
from botorch.models import SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel
from torch import Tensor

from lib.bo_report import Records
from lib.common import end, header, print_table, run_apart, seeded
from sggp.bayesopt import Box, BoxSearch, maximise_box
from sggp.posterior import condition
from sggp.solvers import (
    AlternatingProjections,
    Auto,
    ConjugateGradients,
    SketchAndProject,
    StochasticDualDescent,
)

NOISE = 1e-3
SOLVERS: dict[str, Any] = {
    "auto": Auto(),
    "sdd": StochasticDualDescent(),
    "cg": ConjugateGradients(preconditioner="auto"),
    "ap": AlternatingProjections(),
    "sap": SketchAndProject(),
}
COLUMNS = (
    "length scale",
    "contender",
    "seeds",
    "start",
    "best after each step",
    "over random",
    "processor s",
    "solving",
)
SETUP = ("rows", "dimension", "batch", "steps", "candidates", "ascent", "scale", "seed", "contender")
Propose = Callable[[Tensor, Tensor], Tensor]


def prior_draw(dimension: int, scale: float, generator: torch.Generator, features: int = 5000) -> Propose:
    """A function (n, d) -> (n,) of a Matern-3/2 prior: its spectral density is Student's t with three degrees."""
    normal = torch.randn(features, dimension, generator=generator, dtype=torch.float64)
    chi = torch.randn(features, 3, generator=generator, dtype=torch.float64).square().sum(1)
    frequency = normal / (scale * (chi / 3).sqrt()[:, None])
    phase = 2 * math.pi * torch.rand(features, generator=generator, dtype=torch.float64)
    weight = torch.randn(features, generator=generator, dtype=torch.float64) * math.sqrt(2 / features)

    def value(x: Tensor) -> Tensor:
        return torch.cat([torch.cos(part @ frequency.T + phase) @ weight for part in x.split(2048)])

    return value  # type: ignore[return-value]


def kernel_of(dimension: int, scale: float) -> ScaleKernel:
    kernel = ScaleKernel(MaternKernel(nu=1.5)).double()
    kernel.base_kernel.lengthscale = scale
    kernel.outputscale = 1.0
    return kernel


def ours(
    solver: Any, scale: float, options: argparse.Namespace, generator: torch.Generator, solving: list[float]
) -> Propose:
    box = Box([[0.0, 1.0]] * options.dimension)
    search = BoxSearch(candidates=options.candidates, steps=options.ascent)

    def propose(x: Tensor, y: Tensor) -> Tensor:
        began = time.process_time()
        posterior = condition(
            kernel_of(options.dimension, scale),
            x,
            y,
            noise_variance=NOISE**2,
            solver=solver,
            num_samples=options.batch,
            generator=generator,
        )
        solving.append(time.process_time() - began)
        points, _ = maximise_box(
            posterior.samples,
            box,
            generator=generator,
            search=search,
            near=(x, y),
            lengthscale=torch.tensor([scale], dtype=torch.float64),
        )
        return points

    return propose


def turbo(scale: float, options: argparse.Namespace, generator: torch.Generator) -> Propose:
    state = {"edge": 0.8, "best": -math.inf}

    def propose(x: Tensor, y: Tensor) -> Tensor:
        best = float(y.max())
        if state["best"] > -math.inf:
            better = best > state["best"] + 1e-3 * abs(state["best"])
            state["edge"] = min(1.6, 2 * state["edge"]) if better else state["edge"] / 2
        state["best"] = best
        model = SingleTaskGP(
            x,
            y[:, None],
            torch.full((len(x), 1), NOISE**2, dtype=torch.float64),
            covar_module=kernel_of(options.dimension, scale),
            outcome_transform=None,
        )
        centre, half = x[y.argmax()], state["edge"] / 2
        low, high = (centre - half).clamp(0, 1), (centre + half).clamp(0, 1)
        count = max(options.batch, 5000 if options.rows >= 5000 else options.batch)
        drawn = low + (high - low) * torch.rand(
            count, options.dimension, generator=generator, dtype=torch.float64
        )
        moved = torch.rand(drawn.shape, generator=generator) <= min(1.0, 20.0 / options.dimension)
        candidates = torch.where(moved, drawn, centre)
        with torch.no_grad():
            return MaxPosteriorSampling(model, replacement=False)(candidates, num_samples=options.batch)

    return propose


def random_points(options: argparse.Namespace, generator: torch.Generator) -> Propose:
    def propose(x: Tensor, y: Tensor) -> Tensor:
        return torch.rand(options.batch, options.dimension, generator=generator, dtype=torch.float64)

    return propose


def run(name: str, scale: float, seed: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """The best value at the start and after each step, processor seconds of each step, and those of conditioning."""
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="(botorch|gpytorch|linear_operator).*")
    truth = prior_draw(options.dimension, scale, seeded(10_000 + seed))
    noise, start = seeded(20_000 + seed), seeded(30_000 + seed)
    x = torch.rand(options.rows, options.dimension, generator=start, dtype=torch.float64)

    def measured(points: Tensor) -> tuple[Tensor, Tensor]:
        value = truth(points)
        return value, value + NOISE * torch.randn(len(points), generator=noise, dtype=torch.float64)

    value, y = measured(x)
    best = [float(value.max())]
    own = seeded(40_000 + seed)
    seconds: list[float] = []
    solving: list[float] = []
    if name == "random":
        propose = random_points(options, own)
    elif name == "turbo":
        propose = turbo(scale, options, own)
    else:
        propose = ours(SOLVERS[name], scale, options, own, solving)
    for _ in range(options.steps):
        began = time.process_time()
        new = propose(x, y)
        seconds.append(time.process_time() - began)
        value, told = measured(new)
        x, y = torch.cat([x, new]), torch.cat([y, told])
        best.append(max(best[-1], float(value.max())))
    return {"best": best, "seconds": seconds, "solving": solving}


def table(records: list[dict[str, Any]]) -> list[list[str]]:
    """A line for each length scale and contender, means over the seeds."""
    chance = {(r["scale"], r["seed"]): r["best"][-1] for r in records if r["contender"] == "random"}
    lines = []
    for scale, name in dict.fromkeys((r["scale"], r["contender"]) for r in records):
        found = [r for r in records if (r["scale"], r["contender"]) == (scale, name)]
        failure = next((r["failure"] for r in found if r["failure"]), "")
        if failure:
            lines.append([f"{scale:g}", name, f"{len(found)}", "", failure, "", "", "", ""])
            continue
        start, *best = (f"{mean(step):.3f}" for step in zip(*(r["best"] for r in found), strict=True))
        gain = [r["best"][-1] - chance[scale, r["seed"]] for r in found if (scale, r["seed"]) in chance]
        took = [
            f"{mean(sum(r[part]) for r in found):.0f}" if found[0][part] else ""
            for part in ("seconds", "solving")
        ]
        line = [
            f"{scale:g}",
            name,
            f"{len(found)}",
            start,
            " ".join(best),
            f"{mean(gain):+.3f}" if gain else "",
        ]
        lines.append([*line, *took, f"{max(r['gib'] for r in found):.2f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--dimension", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.2, 0.4])
    names = [*SOLVERS, "turbo", "random"]
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--candidates", type=int, default=2048, help="a round; eight rounds a path")
    parser.add_argument("--ascent", type=int, default=60, help="steps of each ascent")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=float, help="seconds after which a run is stopped")
    parser.add_argument("--json", type=Path, help="file of runs, one JSON object per line; added to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header(
        f"Parallel Thompson sampling: {options.rows} start points, {options.steps} steps of {options.batch}, "
        f"d = {options.dimension}, {options.seeds} seeds",
        ("torch", "gpytorch", "botorch"),
    )
    records = Records(options.json, lambda record: tuple(record[name] for name in SETUP))
    asked = []
    for seed, scale, name in product(range(options.seeds), options.scales, options.contenders):
        setup = {**vars(options), "scale": scale, "seed": seed, "contender": name}
        asked.append({part: setup[part] for part in SETUP})
    for setup in asked:
        if records.key(setup) in records.runs:
            continue
        name, scale, seed = setup["contender"], setup["scale"], setup["seed"]
        apart = run_apart(run, name, scale, seed, options, limit_seconds=options.limit)
        record = {**setup, "failure": apart.failure, "gib": apart.peak_gib, **(apart.value or {})}
        records.add(record)
        told = apart.failure or f"best {record['best'][-1]:.3f}, {sum(record['seconds']):.0f} s"
        print(f"{name}, length scale {scale:g}, seed {seed}: {told}", flush=True)
    print_table([*COLUMNS, "GiB"], table([records.runs[records.key(setup)] for setup in asked]))
    end()


if __name__ == "__main__":
    main()

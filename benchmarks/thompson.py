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
for all steps; memory is the most that the process of that contender held (resident).

    python benchmarks/thompson.py [--rows 5000] [--batch 1000] [--steps 3] [--seeds 2] [--scales 0.2 0.4]
        [--contenders auto sdd cg ap sap turbo random] [--candidates 2048] [--ascent 60]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from botorch.generation import MaxPosteriorSampling
from botorch.models import SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel
from torch import Tensor

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


def ours(solver: Any, scale: float, options: argparse.Namespace, generator: torch.Generator) -> Propose:
    box = Box([[0.0, 1.0]] * options.dimension)
    search = BoxSearch(candidates=options.candidates, steps=options.ascent)

    def propose(x: Tensor, y: Tensor) -> Tensor:
        posterior = condition(
            kernel_of(options.dimension, scale),
            x,
            y,
            noise_variance=NOISE**2,
            solver=solver,
            num_samples=options.batch,
            generator=generator,
        )
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


def run(name: str, scale: float, seed: int, options: argparse.Namespace) -> tuple[list[float], float]:
    """The best value at the start and after each step, and processor seconds of the steps."""
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
    if name == "random":
        propose = random_points(options, own)
    elif name == "turbo":
        propose = turbo(scale, options, own)
    else:
        propose = ours(SOLVERS[name], scale, options, own)
    began = time.process_time()
    for _ in range(options.steps):
        new = propose(x, y)
        value, told = measured(new)
        x, y = torch.cat([x, new]), torch.cat([y, told])
        best.append(max(best[-1], float(value.max())))
    return best, time.process_time() - began


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
    options = parser.parse_args()
    header(
        f"Parallel Thompson sampling: {options.rows} start points, {options.steps} steps of {options.batch}, "
        f"d = {options.dimension}, {options.seeds} seeds",
        ("torch", "gpytorch", "botorch"),
    )
    columns = [
        "length scale",
        "contender",
        "start",
        "best after each step",
        "over random",
        "processor s",
        "GiB",
    ]
    rows = []
    for scale in options.scales:
        chance: list[float] = []
        for name in sorted(options.contenders, key=lambda one: one != "random"):
            apart = [run_apart(run, name, scale, seed, options) for seed in range(options.seeds)]
            failure = next((one.failure for one in apart if one.failure), "")
            if failure:
                rows.append([f"{scale:g}", name, "", failure, "", "", ""])
            else:
                runs = [one.value for one in apart]
                ends = [best[-1] for best, _ in runs]
                chance = ends if name == "random" else chance
                gain = [end - other for end, other in zip(ends, chance, strict=False)]
                start, *best = (
                    f"{mean(list(step)):.3f}" for step in zip(*(one for one, _ in runs), strict=True)
                )
                line = [f"{scale:g}", name, start, " ".join(best), f"{mean(gain):+.3f}" if gain else ""]
                line += [
                    f"{mean([seconds for _, seconds in runs]):.0f}",
                    f"{max(a.peak_gib for a in apart):.2f}",
                ]
                rows.append(line)
            print("  ".join(rows[-1]), flush=True)
    print_table(columns, rows)
    end()


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()

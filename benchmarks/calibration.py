"""Calibration on small sets: hyperparameters at their most likely values beside a mixture over draws of them.

Concrete, energy and yacht, a few training rows of each split, the split's own test rows; inputs and target
standardised on the training rows in use. All models have the same kernel (Matérn-3/2, one length scale per column)
with the same priors, and exact posteriors:

    point             `learn_hyperparameters` with the estimator's defaults: exact marginal likelihood plus log priors
    point, free noise the same without a prior on the noise variance
    mixture           `sample_hyperparameters` (NUTS) and `condition_mixture`, priors as in the first

NLL is per test row, of standardised targets; coverage is the share of test rows inside the central 50 % and 90 %
intervals. "gain" is a point estimate's NLL less the mixture's, its mean over splits and the standard error of that;
"no worse" says whether the mean gain is above minus that error.

    python benchmarks/calibration.py [--sets concrete yacht energy] [--rows 100 200] [--splits 3] [--samples 64]
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lib.common import header, print_table, seeded
from sggp.datasets import uci
from sggp.hyperparameters import learn_hyperparameters, named_kernel
from sggp.hyperparameters.defaults import noise_prior
from sggp.hyperparameters.sampling.mixture import MixturePosterior, condition_mixture
from sggp.hyperparameters.sampling.sample import sample_hyperparameters
from sggp.posterior import condition
from sggp.solvers import Cholesky


@dataclass
class Scores:
    """One model over the splits of one set."""

    nll: list[float] = field(default_factory=list)
    rmse: list[float] = field(default_factory=list)
    half: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, model: MixturePosterior, xs: Tensor, ys: Tensor, seconds: float) -> None:
        inside = (model.cdf(xs, ys) - 0.5).abs()
        self.nll.append(-float(model.log_density(xs, ys).mean()))
        self.rmse.append(float((model.mean(xs) - ys).square().mean().sqrt()))
        self.half.append(float((inside <= 0.25).double().mean()))
        self.most.append(float((inside <= 0.45).double().mean()))
        self.seconds.append(seconds)

    def cells(self) -> list[str]:
        means = [mean(values) for values in (self.nll, self.rmse, self.half, self.most, self.seconds)]
        return [
            f"{means[0]:.3f}",
            f"{means[1]:.3f}",
            f"{100 * means[2]:.0f} %",
            f"{100 * means[3]:.0f} %",
            f"{means[4]:.1f}",
        ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def standard_error(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))


def split_rows(name: str, split: int, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Some training rows of a split and its test rows, standardised on the former."""
    data = uci(name, split)
    x, y, xs, ys = (torch.as_tensor(a) for a in (data.x_train, data.y_train, data.x_test, data.y_test))
    chosen = torch.randperm(len(x), generator=seeded(1000 + split))[:rows]
    x, y = x[chosen], y[chosen]
    centre, spread = x.mean(0), x.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    level, unit = y.mean(), y.std(correction=0)
    return (x - centre) / spread, (y - level) / unit, (xs - centre) / spread, (ys - level) / unit


def point(x: Tensor, y: Tensor, prior: Any) -> MixturePosterior:
    """The posterior at the most likely hyperparameters, as a mixture of one."""
    fit = learn_hyperparameters(
        named_kernel("matern32", x.shape[1]), x, y, optimizer="exact", noise_prior=prior
    )
    posterior = condition(
        fit.kernel,
        x,
        y,
        noise_variance=fit.noise_variance,
        mean=float(fit.mean),
        num_samples=0,
        solver=Cholesky(),
    )
    return MixturePosterior((posterior,), (float(fit.noise_variance),))


def mixture(x: Tensor, y: Tensor, seed: int, arguments: argparse.Namespace) -> tuple[MixturePosterior, str]:
    draws = sample_hyperparameters(
        named_kernel("matern32", x.shape[1]),
        x,
        y,
        noise_prior=noise_prior(),
        num_samples=arguments.samples,
        warmup=arguments.warmup,
        generator=seed,
    )
    note = f"R-hat {max(draws.r_hat.values()):.2f}, ESS {min(draws.effective_sample_size.values()):.0f}"
    note += f", {draws.divergences} of {draws.transitions} diverged, {draws.evaluations} evaluations"
    return condition_mixture(draws, x, y, num_samples=0, solver=Cholesky()), note


def measure(name: str, rows: int, arguments: argparse.Namespace) -> tuple[Scores, Scores, Scores]:
    defaults, free, mixed = Scores(), Scores(), Scores()
    for split in range(arguments.splits):
        x, y, xs, ys = split_rows(name, split, rows)
        for scores, prior in ((defaults, noise_prior()), (free, None)):
            begin = time.perf_counter()
            model = point(x, y, prior)
            scores.add(model, xs, ys, time.perf_counter() - begin)
        begin = time.perf_counter()
        model, note = mixture(x, y, split, arguments)
        mixed.add(model, xs, ys, time.perf_counter() - begin)
        shown = ", ".join(f"{scores.nll[-1]:.3f}" for scores in (defaults, free, mixed))
        print(f"{name} {len(x)} rows, split {split}: NLL {shown}; {note}", flush=True)
    return defaults, free, mixed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="*", choices=["concrete", "yacht", "energy"], default=["concrete", "yacht", "energy"])
    add("--rows", nargs="*", type=int, default=[100, 200], help="training rows")
    add("--splits", type=int, default=3)
    add("--samples", type=int, default=64, help="draws of the hyperparameters")
    add("--warmup", type=int, default=150)
    arguments = parser.parse_args()
    header("NLL and coverage of point estimate and mixture", ("torch", "gpytorch", "pyro-ppl"))
    table = []
    for name in arguments.sets:
        for rows in arguments.rows:
            *points, mixed = measure(name, rows, arguments)
            for label, scores in zip(("point", "point, free noise"), points, strict=True):
                gains = [a - b for a, b in zip(scores.nll, mixed.nll, strict=True)]
                gain, error = mean(gains), standard_error(gains)
                verdict = "yes" if gain >= -error else "NO"
                shown = f"{gain:+.3f} ± {error:.3f}"
                table.append([name, str(rows), label, *scores.cells(), shown, verdict])
            table.append([name, str(rows), "mixture", *mixed.cells(), "", ""])
    print()
    columns = [
        "set",
        "rows",
        "model",
        "NLL",
        "RMSE",
        "inside 50 %",
        "inside 90 %",
        "seconds",
        "gain",
        "no worse",
    ]
    print_table(columns, table)


if __name__ == "__main__":
    main()

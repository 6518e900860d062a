"""Bayesian optimisation with BoTorch and sggp: Hartmann-6, three ways of choosing the next batch.

    python examples/botorch_loop.py            # about a minute
    python examples/botorch_loop.py --quick    # a few seconds

* qLogEI: `qLogExpectedImprovement` maximised by `optimize_acqf` (gradients through the paths).
* Thompson: `MaxPosteriorSampling`, one path per point of the batch over thousands of candidates.
* random: what the same number of evaluations finds without a model.

All three start from the same points. Hartmann-6 has six local maxima; the largest value is 3.32237.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from botorch.acquisition import qLogExpectedImprovement
from botorch.generation import MaxPosteriorSampling
from botorch.optim import optimize_acqf
from botorch.test_functions import Hartmann
from torch import Tensor
from torch.quasirandom import SobolEngine

from sggp.botorch import PathwiseGPModel

BOUNDS = torch.stack([torch.zeros(6), torch.ones(6)]).double()
Chooser = Callable[[Tensor, Tensor, int, int], Tensor]


def expected_improvement(X: Tensor, Y: Tensor, batch: int, seed: int) -> Tensor:
    """The batch (batch, 6) that maximises the logarithm of the expected improvement."""
    model = PathwiseGPModel(X, Y, num_samples=128, generator=seed)
    acquisition = qLogExpectedImprovement(model, best_f=Y.max())
    candidates, _ = optimize_acqf(
        acquisition, BOUNDS, q=batch, num_restarts=4, raw_samples=128, options={"maxiter": 60, "seed": seed}
    )
    return candidates


def thompson(X: Tensor, Y: Tensor, batch: int, seed: int) -> Tensor:
    """The maximisers of `batch` posterior paths, among global candidates and neighbours of the best point."""
    model = PathwiseGPModel(X, Y, num_samples=batch, generator=seed)
    generator = torch.Generator().manual_seed(seed)
    everywhere = SobolEngine(6, scramble=True, seed=seed).draw(4000, dtype=torch.float64)
    steps = 0.1 * torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    moved = torch.rand(4000, 6, generator=generator) < 0.5  # a neighbour differs in half of its coordinates
    nearby = (X[Y.argmax()] + steps * moved).clamp(0, 1)
    strategy = MaxPosteriorSampling(model, replacement=False)
    with torch.no_grad():
        return strategy(torch.cat([everywhere, nearby]), num_samples=batch)


def random(X: Tensor, Y: Tensor, batch: int, seed: int) -> Tensor:
    """Uniform points."""
    del X, Y
    return torch.rand(batch, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(choose: Chooser, objective: Hartmann, rounds: int, batch: int, seed: int) -> list[float]:
    """The best value after the start and after every round."""
    X = SobolEngine(6, scramble=True, seed=seed).draw(12, dtype=torch.float64)
    Y = objective(X).unsqueeze(-1)
    best = [float(Y.max())]
    for step in range(rounds):
        new = choose(X, Y, batch, 1000 * seed + step)
        X, Y = torch.cat([X, new]), torch.cat([Y, objective(new).unsqueeze(-1)])
        best.append(float(Y.max()))
    return best


def main() -> None:
    """Run the loops and print the best value found so far, round by round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round only")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rounds, batch = (1, 2) if given.quick else (15, 4)
    objective = Hartmann(negate=True).double()
    ways: dict[str, Chooser] = {"qLogEI": expected_improvement, "Thompson": thompson, "random": random}
    curves = {}
    for name, choose in ways.items():
        started = time.perf_counter()
        curves[name] = run(choose, objective, rounds, batch, given.seed)
        print(f"{name}: best {curves[name][-1]:.4f} in {time.perf_counter() - started:.1f} s")
    print("\nevaluations " + "".join(f"{name:>10}" for name in ways))
    for step in range(rounds + 1):
        print(f"{12 + step * batch:11d} " + "".join(f"{curves[name][step]:10.4f}" for name in ways))
    print(f"\nlargest value of the function: {objective.optimal_value:.4f}")


if __name__ == "__main__":
    main()

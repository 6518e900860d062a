"""Tasks that learn from one another in BoTorch: a cheap simulation helps an expensive experiment.

    python examples/botorch_tasks.py            # about a minute
    python examples/botorch_tasks.py --quick    # a few seconds

The experiment is Hartmann-6 and has a few rows; the simulation is the same function with other constants, in units of
its own and of the opposite sign, and has many. Each round chooses the next experiments by qLogExpectedImprovement,
twice: with a `PathwiseMultiTaskGP` of both tasks, and with a `PathwiseGPModel` of the experiments alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from botorch.acquisition import qLogExpectedImprovement
from botorch.models.model import Model
from botorch.optim import optimize_acqf
from botorch.test_functions import AugmentedHartmann
from torch import Tensor
from torch.quasirandom import SobolEngine

from sggp.botorch import PathwiseGPModel, PathwiseMultiTaskGP

SIMULATION, EXPERIMENT = 0, 1
BOUNDS = torch.stack([torch.zeros(6), torch.ones(6)]).double()
HARTMANN = AugmentedHartmann(negate=True).double()
Build = Callable[[Tensor, Tensor, int], Model]


def experiment(x: Tensor) -> Tensor:
    """What is wanted: Hartmann-6, (n, 6) -> (n, 1)."""
    return HARTMANN(torch.cat([x, torch.ones(len(x), 1)], dim=1)).unsqueeze(-1)


def simulation(x: Tensor) -> Tensor:
    """What is cheap: another fidelity of the function, as a loss in units of its own."""
    return 50 - 20 * HARTMANN(torch.cat([x, torch.full((len(x), 1), 0.2)], dim=1)).unsqueeze(-1)


def both(simulations: int, seed: int) -> Build:
    """A model of the experiment that knows so many simulations."""
    cheap = SobolEngine(6, scramble=True, seed=seed + 1).draw(simulations, dtype=torch.float64)
    values = simulation(cheap)

    def build(X: Tensor, Y: Tensor, seed: int) -> Model:
        rows = [(cheap, SIMULATION), (X, EXPERIMENT)]
        long = torch.cat([torch.cat([x, torch.full((len(x), 1), float(task))], dim=1) for x, task in rows])
        outcomes = torch.cat([values, Y])
        return PathwiseMultiTaskGP(long, outcomes, task_feature=-1, output_tasks=[EXPERIMENT], generator=seed)

    return build


def alone(X: Tensor, Y: Tensor, seed: int) -> Model:
    """A model of the experiments."""
    return PathwiseGPModel(X, Y, generator=seed)


def run(build: Build, rounds: int, batch: int, seed: int) -> tuple[list[float], Model]:
    """The best experiment after the start and after every round, and the last model."""
    X = SobolEngine(6, scramble=True, seed=seed).draw(8, dtype=torch.float64)
    Y = experiment(X)
    best = [float(Y.max())]
    for step in range(rounds):
        model = build(X, Y, step)
        acquisition = qLogExpectedImprovement(model, best_f=Y.max())
        new, _ = optimize_acqf(
            acquisition,
            BOUNDS,
            q=batch,
            num_restarts=4,
            raw_samples=64,
            options={"maxiter": 40, "seed": step},
        )
        X, Y = torch.cat([X, new]), torch.cat([Y, experiment(new)])
        best.append(float(Y.max()))
    return best, model


def main() -> None:
    """Run both and print the best value found so far, round by round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, few simulations")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rounds, batch, simulations = (1, 2, 30) if given.quick else (8, 2, 150)
    torch.manual_seed(given.seed)  # BoTorch's starts of the optimiser
    joint, model = run(both(simulations, given.seed), rounds, batch, given.seed)
    single, _ = run(alone, rounds, batch, given.seed)
    covariances = model.task_covariances
    correlation = covariances[0, 1] / (covariances[0, 0] * covariances[1, 1]).sqrt()
    print(f"learnt correlation of simulation and experiment: {float(correlation):.2f}\n")
    print("experiments  with simulations  experiments alone")
    for step, values in enumerate(zip(joint, single, strict=True)):
        print(f"{8 + step * batch:11d}  {values[0]:16.4f}  {values[1]:17.4f}")
    print(f"\nlargest value of the function: {HARTMANN.optimal_value:.4f}")


if __name__ == "__main__":
    main()

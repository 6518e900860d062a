"""Ax with models of sggp: one objective, two objectives, unordered choices, and a pool of molecules.

    pip install ax-platform "sggp[botorch,molecules]"
    python examples/ax_loop.py            # about two minutes
    python examples/ax_loop.py --quick    # some 20 seconds

* Branin, minimised by Ax's default acquisition function on a `PathwiseGPModel`.
* Branin and the distance from a preferred setting, both minimised: the Pareto front.
* Branin with one of three solvents, of which one is better than the others: a `PathwiseMixedGP`.
* Amides of 26 acids and 26 amines, of which a `PoolNode` measures those that may be the most drug-like (QED).

Ax makes and orders the trials and keeps the data; sggp gives the model. Each loop starts without one.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from typing import Any

import torch
from ax.adapter.registry import Generators
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
from ax.generation_strategy.generation_node import GenerationNode
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.generation_strategy.generator_spec import GeneratorSpec
from ax.generation_strategy.transition_criterion import MinTrials
from ax.utils.common.logger import set_ax_logger_levels
from gpytorch.kernels import ScaleKernel
from rdkit import Chem
from rdkit.Chem.QED import qed

from sggp.botorch import PathwiseGPModel, PathwiseMixedGP
from sggp.botorch.ax import PoolNode, surrogate_spec
from sggp.kernels import TableKernel, TanimotoMinMax
from sggp.molecules import FingerprintTable, SmilesFingerprinter

SIDES = [
    RangeParameterConfig(name="x", parameter_type="float", bounds=(-5, 10)),
    RangeParameterConfig(name="y", parameter_type="float", bounds=(0, 15)),
]
SOLVENT = ChoiceParameterConfig(
    name="solvent", parameter_type="str", values=["water", "ethanol", "toluene"], is_ordered=False
)
RINGS = ["c1ccccc1", "c1ccncc1", "c1ccoc1", "c1ccsc1", "C1CCCCC1", "C1CCCC1", "C1CC1", "c1ccc2ccccc2c1"]
CHAINS = ["C", "CC", "CCC", "CC(C)", "COC"]
SIDE_CHAINS = [*CHAINS, *RINGS, *(f"C{ring}" for ring in RINGS), *(f"CO{ring}" for ring in RINGS[:5])]


def branin(x: float, y: float) -> float:
    """Three minima of .398, at (-π, 12.275), (π, 2.275) and (9.425, 2.475)."""
    bend = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def client_for(objective: str, parameters: list[Any], nodes: list[GenerationNode], seed: int) -> Client:
    """An Ax experiment with a generation strategy of one's own."""
    client = Client(random_seed=seed)
    client.configure_experiment(name="example", parameters=parameters)
    client.configure_optimization(objective=objective)
    client.set_generation_strategy(GenerationStrategy(nodes=nodes))
    return client


def sobol_then_model(seed: int, kind: type[PathwiseGPModel] = PathwiseGPModel) -> list[GenerationNode]:
    """Six Sobol points, then Ax's generator on our surrogate."""
    start = GeneratorSpec(generator_enum=Generators.SOBOL, generator_kwargs={"seed": seed})
    mixed = kind is PathwiseMixedGP  # BO_MIXED keeps choices as they are, the other one makes numbers of them
    model = GeneratorSpec(
        generator_enum=Generators.BO_MIXED if mixed else Generators.BOTORCH_MODULAR,
        generator_kwargs={"surrogate_spec": surrogate_spec(kind, num_samples=128, generator=seed)},
    )
    enough = MinTrials(threshold=6, transition_to="sggp", use_all_trials_in_exp=True)
    return [
        GenerationNode(name="sobol", generator_specs=[start], transition_criteria=[enough]),
        GenerationNode(name="sggp", generator_specs=[model]),
    ]


def one_objective(rounds: int, seed: int) -> None:
    client = client_for("-branin", SIDES, sobol_then_model(seed), seed)
    values = []
    for _ in range(6 + rounds):
        for trial, point in client.get_next_trials(1).items():
            values.append(branin(**point))
            client.complete_trial(trial, raw_data={"branin": values[-1]})
    print(
        f"one objective:  best of 6 Sobol points {min(values[:6]):.3f}, after {rounds} more {min(values):.3f}"
    )


def two_objectives(rounds: int, seed: int) -> None:
    client = client_for("-branin, -distance", SIDES, sobol_then_model(seed), seed)
    for _ in range(6 + rounds):
        for trial, point in client.get_next_trials(1).items():
            distance = math.hypot(point["x"] - 2.5, point["y"] - 7.5)
            client.complete_trial(trial, raw_data={"branin": branin(**point), "distance": distance})
    print(f"two objectives: {len(client.get_pareto_frontier())} points on the front of {6 + rounds}")


def choices(rounds: int, seed: int) -> None:
    client = client_for("-loss", [*SIDES, SOLVENT], sobol_then_model(seed, PathwiseMixedGP), seed)
    found = []
    for _ in range(6 + rounds):
        for trial, point in client.get_next_trials(1).items():
            loss = branin(point["x"], point["y"]) + 20 * (point["solvent"] != "ethanol")
            found.append((loss, point["solvent"]))
            client.complete_trial(trial, raw_data={"loss": loss})
    print(f"choices:        best {min(found)[0]:.3f}, in {min(found)[1]}")


def pool(rounds: int, seed: int) -> None:
    smiles = [f"{acid}C(=O)N{amine}" for acid in SIDE_CHAINS for amine in SIDE_CHAINS]
    table = FingerprintTable.from_smiles(smiles, SmilesFingerprinter())
    numbers = torch.arange(len(table), dtype=torch.float64)[:, None]  # fingerprints stay packed in the table
    kernel = ScaleKernel(TableKernel(TanimotoMinMax(), table))
    node = PoolNode(numbers, covar_module=kernel, batch=10, seed=seed)
    rows = [RangeParameterConfig(name="row", parameter_type="int", bounds=(0, len(table) - 1))]
    client, best = client_for("qed", rows, [node], seed), -math.inf
    for _ in range(1 + rounds):
        for trial, point in client.get_next_trials(10).items():
            value = qed(Chem.MolFromSmiles(smiles[point["row"]]))
            best = max(best, value)
            client.complete_trial(trial, raw_data={"qed": value})
    rank = sum(qed(Chem.MolFromSmiles(each)) > best for each in smiles) + 1
    print(f"pool:           the best of {10 * (1 + rounds)} molecules has rank {rank} of {len(table)}")


def main() -> None:
    """Run the four loops and print what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two rounds only")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    set_ax_logger_levels(logging.ERROR)
    warnings.filterwarnings("ignore", module="ax")
    rounds = 2 if arguments.quick else 15
    for loop in (one_objective, two_objectives, choices, pool):
        loop(rounds, arguments.seed)


if __name__ == "__main__":
    main()

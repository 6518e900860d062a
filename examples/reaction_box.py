"""Reaction conditions as a box with categories: the yield of a coupling by a formula, four experiments at a time.

python examples/reaction_box.py            # 6 batches of 4 after 12 first experiments, some ten seconds
python examples/reaction_box.py --quick    # 2 batches of 3
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from sggp.bayesopt import Box, BoxSearch, Campaign, Continuous, Integer, LinearConstraint, Ordinal

SPACE = Box(
    {
        "temperature": Continuous(20, 120, unit="°C"),
        "catalyst": Continuous(1e-3, 0.1, log=True, unit="mol/mol"),
        "base": ["K2CO3", "Cs2CO3", "Et3N", "DBU"],
        "solvent": ["DMF", "toluene", "dioxane"],
        "equivalents": Integer(1, 5),
        "water": Continuous(0, 2, unit="mL"),
        "organic": Continuous(0, 4, unit="mL"),
        "stirring": Ordinal(["slow", "medium", "fast"]),
    },
    constraints=[LinearConstraint(["water", "organic"], at_least=2, at_most=4)],  # what the vial takes
)

BASES = {"K2CO3": (0.80, 80), "Cs2CO3": (1.00, 70), "Et3N": (0.45, 60), "DBU": (0.60, 95)}
SOLVENTS = {"DMF": (0.85, 0.0), "toluene": (0.70, 15.0), "dioxane": (1.00, 5.0)}
STIRRING = {"slow": 0.85, "medium": 1.0, "fast": 0.97}


def true_yield(point: dict[str, Any]) -> float:
    """A yield in per cent: each base has its best temperature, which the solvent shifts; too much water hurts."""
    height, best = BASES[point["base"]]
    share, shift = SOLVENTS[point["solvent"]]
    heat = math.exp(-(((point["temperature"] - best - shift) / 25) ** 2))
    catalyst = math.exp(-((math.log10(point["catalyst"]) + 1.7) ** 2))
    base = math.exp(-(((point["equivalents"] - 3) / 2) ** 2))
    wet = point["water"] / (point["water"] + point["organic"])
    mixed = STIRRING[point["stirring"]] * math.exp(-(((wet - 0.2) / 0.3) ** 2))
    return 100 * height * share * heat * catalyst * base * mixed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 batches of 3")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    batches, size, first = (2, 3, 6) if options.quick else (6, 4, 12)
    search = BoxSearch(rounds=2, candidates=256, starts=2, steps=15) if options.quick else BoxSearch(starts=2)

    noise = torch.Generator().manual_seed(options.seed)

    def measure(trial: Any) -> float:
        return true_yield(dict(zip(SPACE.names, trial.x, strict=True))) + float(
            torch.randn((), generator=noise)
        )

    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(
            SPACE,
            Path(folder) / "reaction.db",
            maximize=True,
            seed=options.seed,
            num_initial=first,
            num_features=512,
            search=search,
        )
        for number in range(batches + 1):
            for trial in campaign.ask(size if number else first):
                campaign.tell(trial.id, measure(trial))
            (best,) = campaign.best()
            print(f"after {len(campaign.results()):2d} experiments: best yield {best.value:5.1f} %")
        cells = zip(SPACE.units.items(), best.x or (), strict=True)
        told = ", ".join(
            f"{name} {cell:.3g} {unit}".rstrip() if isinstance(cell, float) else f"{name} {cell}"
            for (name, unit), cell in cells
        )
        print(f"its conditions: {told}")

    points = SPACE.places(
        SPACE.sample(len(SPACE.names) * 5, generator=torch.Generator().manual_seed(options.seed))
    )
    random = max(true_yield(dict(zip(SPACE.names, place.x or (), strict=True))) for place in points)
    print(f"best of {len(points)} random experiments: {random:.1f} %")


if __name__ == "__main__":
    main()

"""The searches of `sggp demo`, and what they are compared by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sggp.bayesopt.screening import RandomScreenings, Screening
from sggp.molecules import FingerprintTable


@dataclass(frozen=True)
class Searches:
    """Finished searches with the same budget: those of each rule, one a seed, and random choice for each seed.

    Attributes:
        library: the molecules. values: (N,) the truth. objective: its name.
        by_rule: name of a rule → searches; the first is the default rule.
        chance: random choice from the same known molecules, one a seed.
        left_out: molecules of the file that are not in the library, by reason.
    """

    library: FingerprintTable
    values: Tensor
    objective: str
    by_rule: dict[str, list[Screening]]
    chance: list[RandomScreenings]
    left_out: dict[str, int]

    @property
    def main(self) -> Screening:
        """The first search of the default rule."""
        return next(iter(self.by_rule.values()))[0]

    def found(self, rule: str) -> np.ndarray:
        """(seeds, rounds + 1) how many of the library's best molecules were measured after each round."""
        return np.stack([search.found_by_round() for search in self.by_rule[rule]])


def comparison(done: Searches) -> tuple[list[str], list[list[Any]]]:
    """One line per rule: best value and number of the library's best molecules found, mean over the searches."""
    top = done.main.top_found()[0]
    header = ["rule", f"best {done.objective}", f"of the top {top} found", "fewest", "most"]
    lines: list[list[Any]] = []
    for number, (rule, searches) in enumerate(done.by_rule.items()):
        found = done.found(rule)[:, -1]
        best = np.mean([search.curve[-1] for search in searches])
        name = f"{rule} (the default)" if number == 0 else rule
        lines.append([name, float(best), float(found.mean()), int(found.min()), int(found.max())])
    ends = np.concatenate([random.curves[:, -1] for random in done.chance])
    found = np.concatenate([random.top_found for random in done.chance])
    lines.append(
        ["random choice", float(ends.mean()), float(found.mean()), int(found.min()), int(found.max())]
    )
    return header, lines

"""The parts of a campaign's page that are about reagents: drawn with their products, and ranked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sggp.bayesopt import Campaign, Combinatorial, Surrogate, Trial
from sggp.bayesopt.combinatorial import ReagentEffect, reagent_effects
from sggp.bayesopt.outcomes import Objective
from sggp.cli.molecules.products import small_drawing
from sggp.cli.report import Part, cards, paragraph, rows_table
from sggp.molecules import molecule_svg

PATHS = 64
"""Joint samples that uncertainties of reagents are taken from."""
_DRAWN = 8
_TEXT = (
    "How much better the products of a reagent are than those of the average measured reagent of its component, as the "
    "model sees it: the mean over the same combinations of partners for all, and one standard deviation. What lies "
    "within two standard deviations of 0 may be nothing. It is an average: a reagent may do better with some partners."
)


def reagent_parts(space: Any, trial: Trial) -> list[Part]:
    """Drawings of the reagents of a trial, with their ids; none for a molecule from elsewhere."""
    found = space.reagents(trial) if isinstance(space, Combinatorial) else None
    if found is None:
        return []
    return [small_drawing(smiles, name) for name, smiles in zip(found[1], found[2], strict=True)]


def useful_reagents(campaign: Campaign, model: Surrogate, objective: Objective) -> list[tuple[str, str]]:
    """The section of reagents, best first within each component; none where nothing can be compared."""
    if not isinstance(campaign.space, Combinatorial):
        return []
    found = reagent_effects(model, campaign.space, campaign.results(), generator=0)
    if not found:
        return []
    ordered = sorted(
        found, key=lambda e: (e.reaction, e.component, -e.mean if objective.maximize else e.mean)
    )
    body = paragraph(_TEXT)
    several = len({effect.reaction for effect in found}) > 1
    for (reaction, component), members in groupby(ordered, key=lambda e: (e.reaction, e.component)):
        own = list(members)
        name = f"Component {component}" + (f" of {reaction}" if several else "")
        best = f"the {_DRAWN} best of " if len(own) > _DRAWN else ""
        body += paragraph(f"{name}: {best}{len(own)} measured reagents, best first")
        body += cards([_card(effect) for effect in own[:_DRAWN]])
    rows = [[e.reaction, e.component, e.id, e.smiles, e.measured, e.mean, e.std] for e in ordered]
    header = ["reaction", "component", "id", "smiles", "measured", f"effect on {objective.name}", "std"]
    return [("The most useful reagents", body + rows_table(header, rows))]


def _card(effect: ReagentEffect) -> tuple[str, Sequence[str]]:
    products = "1 measured product" if effect.measured == 1 else f"{effect.measured} measured products"
    said = f"{effect.id}: {effect.mean:+.3g} ± {effect.std:.2g}"
    return molecule_svg(effect.smiles), [said, products, effect.smiles]

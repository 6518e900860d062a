"""The page about a campaign, for those who decide whether it goes on."""

from __future__ import annotations

import math
import platform
import warnings
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sggp.bayesopt import Campaign, Surrogate, Trial
from sggp.bayesopt.outcomes import Objective, stated
from sggp.bayesopt.outcomes.results import guaranteed
from sggp.bayesopt.outcomes.tables import SIDES, measurement_of
from sggp.bayesopt.screening import predict_rows
from sggp.cli.campaign import figures
from sggp.cli.campaign.listing import is_molecules, library_ids, listing, place, places, same_molecules
from sggp.cli.campaign.naming import JOINT
from sggp.cli.campaign.opening import is_products
from sggp.cli.campaign.reagents import PATHS, reagent_parts, useful_reagents
from sggp.cli.console import shown as as_text
from sggp.cli.molecules.products import is_reagent_smiles, narrow
from sggp.cli.report import Part, cards, facts, judged, page, paragraph, picture, rows_table
from sggp.errors import SggpError
from sggp.molecules import molecule_svg

_CARDS = 24
_ROWS = 5000
_JUDGED = 3000
_LEAST = 5
Section = tuple[str, str]


def render(store: str, campaign: Campaign) -> str:
    """The page as one HTML text."""
    trials = campaign.results()
    objective = campaign.wanted.objectives[0]
    sections: list[Section] = [("What this is", facts(_facts(store, campaign, trials)))]
    measured = [trial for trial in trials if trial.value is not None]
    if measured:
        sections += _found(campaign, trials, objective)
        sections += _modelled(campaign, trials, objective)
    sections += _batch(campaign, trials)
    failed = [trial for trial in trials if trial.state in ("failed", "withdrawn")]
    if failed:
        rows = [[t.id, *place(campaign, t), t.state, t.reason or "no reason given"] for t in failed]
        sections.append(
            ("Failed and withdrawn", rows_table(["trial", *places(campaign), "state", "reason"], rows))
        )
    sections.append(("All trials", rows_table(*narrow(*listing(campaign, trials, results=True)))))
    return page(f"Campaign {Path(store).name}: {_goal(objective)}", sections)


def _goal(objective: Objective) -> str:
    return f"{'maximise' if objective.maximize else 'minimise'} {objective.name}"


def _facts(store: str, campaign: Campaign, trials: Sequence[Trial]) -> list[tuple[str, Any]]:
    settings, wanted = campaign.settings, campaign.wanted
    states = Counter(trial.state for trial in trials)
    items: list[tuple[str, Any]] = [
        ("objective", f"{_goal(o)}{f', in {o.unit}' if o.unit else ''}") for o in wanted.objectives
    ]
    for limit in wanted.constraints:
        ends = [(limit.at_least, "at least"), (limit.at_most, "at most")]
        said = " and ".join(f"{word} {end:g}" for end, word in ends if end is not None)
        items.append(("constraint", f"{limit.name} {said} {limit.unit}".rstrip()))
    items.append(
        ("trials", ", ".join(f"{states[s]} {s}" for s in ("measured", "pending", "failed", "withdrawn")))
    )
    if campaign.budget is not None:
        items.append(("spent", f"{campaign.spent:g} of {campaign.budget:g}"))
    if is_molecules(campaign):
        size = f", {campaign.space.capacity:.0f} molecules" if campaign.has_space else ", not read"
        items.append(("library", f"{campaign.info.get('library', 'given in Python')}{size}"))
        items += [("same molecules", line) for line in same_molecules(campaign)]
    elif is_products(campaign):
        sizes = [
            f"{one['name']}: {' x '.join(f'{size:,}' for size in one['sizes'])} reagents"
            for one in (campaign.space.describe() if campaign.has_space else settings["space"])["reactions"]
        ]
        items.append(("products", f"{campaign.info.get('reaction', 'given in Python')}; {'; '.join(sizes)}"))
        if campaign.has_space:
            items.append(("combinations", f"{len(campaign.space):,}"))  # type: ignore[arg-type]
    elif campaign.has_space:
        items.append(("settings", ", ".join(campaign.space.names)))
    programs = ", ".join(f"{name} {version(name)}" for name in ("torch", "gpytorch", "numpy"))
    return [
        *items,
        ("rule", settings.get("rule") or "one of its own"),
        ("seed", settings["seed"]),
        ("campaign file", store),
        ("versions", f"sggp {version('sggp')}, Python {platform.python_version()}, {programs}"),
        ("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def _found(campaign: Campaign, trials: Sequence[Trial], objective: Objective) -> list[Section]:
    best = campaign.best(12)
    top = best[0]
    value = top.values.get(objective.name, top.measurement)
    said = f"The best so far is {stated(value, objective.unit)}: trial {top.id}, {_where(campaign, top)}."
    picked = [_card(campaign, trial, objective) for trial in best]
    sections = [
        ("Best found", paragraph(said) + cards(picked)),
        (
            "Progress",
            picture(
                figures.progress(trials, objective), "measured values, expected values and the best so far"
            ),
        ),
    ]
    if len(campaign.wanted.objectives) > 1:
        front = campaign.pareto()
        shown = figures.front(trials, front.trials, campaign.wanted.objectives)
        text = f"{len(front.trials)} trials are not beaten by any other in all objectives."
        table = rows_table(*listing(campaign, list(front.trials), results=True))
        sections.append(
            ("Trade-off", paragraph(text) + picture(shown, "two objectives of all trials") + table)
        )
    return sections


def _modelled(campaign: Campaign, trials: Sequence[Trial], objective: Objective) -> list[Section]:
    """What the model says: how good it is, what it expects of the library, and whether to go on."""
    if not campaign.has_space:
        return [("Model", paragraph("The library was not read, so that there is no model on this page."))]
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            paths = PATHS if is_products(campaign) else 1
            beliefs = campaign.beliefs(paths, generator=campaign.settings["seed"])
            model = beliefs.surrogate
            sections = [*_outlook(campaign), *_judged(model, trials, objective)]
            sections += useful_reagents(campaign, model, objective)
            apart = {one.trial for one in beliefs.apart if one.outcome == objective.name}
            best = next((t for t in campaign.best(len(trials)) if t.id not in apart), None)
            found = None if best is None else measurement_of(best, objective.name, objective.name)
            if found is not None and math.isfinite(guaranteed(found, objective)):
                sections += _library(campaign, model, trials, found.value)
    except SggpError as error:
        return [("Model", paragraph(f"There is no model: {error}"))]
    said = "".join(paragraph(f"Note: {note.message}") for note in notes)
    return [*sections, *([("Notes of the model", said)] if said else [])]


def _outlook(campaign: Campaign) -> list[Section]:
    try:
        said = campaign.outlook().sentences()
    except SggpError as error:
        said = [f"There is no outlook: {error}"]
    return [("Is it worth going on?", "".join(paragraph(sentence) for sentence in said))]


def _judged(model: Surrogate, trials: Sequence[Trial], objective: Objective) -> list[Section]:
    sections = []
    if model.learned and model.x is not None and model.target is not None and len(model.x) <= _JUDGED:
        values, side = model.told_values
        kept = ~values.isnan()  # what stands for a failure is no measurement
        mean, std = model.leave_one_out()
        text = (
            "Each measurement predicted from all the others. Left: predicted against measured. Right: the share of "
            "measurements inside the intervals of each level; below the diagonal the model is too sure of itself."
        )
        left = (values[kept], mean[kept], std[kept], side[kept])
        shown = judged(left, objective.name, "parity and calibration, left out")
        sections.append(("How good the model is", paragraph(text) + shown))
    return sections + _last_batch(model, trials, objective)


def _last_batch(model: Surrogate, trials: Sequence[Trial], objective: Objective) -> list[Section]:
    told = [
        (trial, measured)
        for trial in trials
        if trial.expected is not None and (measured := measurement_of(trial, objective.name, objective.name))
    ]
    last = max((trial.batch for trial, _ in told), default=0)
    latest = [one for one in told if one[0].batch == last]
    truth = np.array([measured.value for _, measured in latest])
    side = np.array([SIDES[measured.censored] for _, measured in latest])
    exact = side == 0
    if exact.sum() < _LEAST:
        return []
    mean, std = np.array([trial.expected for trial, _ in latest], dtype=float).T
    spread = np.sqrt(std**2 + model.noise_std**2)
    inside = int((np.abs(truth - mean) <= 2 * spread)[exact].sum())
    text = (
        f"What was expected of batch {last} before it was measured: {inside} of {exact.sum()} values lie within "
        "two standard deviations."
    )
    shown = judged((truth, mean, spread, side), objective.name, "parity and calibration, last batch")
    return [("The last batch", paragraph(text) + shown)]


def _library(campaign: Campaign, model: Surrogate, trials: Sequence[Trial], best: float) -> list[Section]:
    if not is_molecules(campaign):
        return []
    space: Any = campaign.space
    taken = {trial.index for trial in trials if trial.index is not None}
    order = torch.randperm(len(space), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [row for row in order if row not in taken][:_ROWS]
    if not rows:
        return []
    mean, std = predict_rows(model, space, rows)
    objective = campaign.wanted.objectives[0]
    sample = (
        "all molecules"
        if len(rows) == len(space) - len(taken)
        else f"{len(rows)} molecules drawn at random of those"
    )
    beyond = int(((mean > best) if objective.maximize else (mean < best)).sum())
    text = (
        f"Predictions for {sample} that were not measured. The model expects {beyond} of them to beat the best "
        f"measured; a measurement there is known to ± {float(std.median()):.3g} (median)."
    )
    shown = figures.library(mean.numpy(), std.numpy(), best, objective)
    return [("The rest of the library", paragraph(text) + picture(shown, "predictions for the library"))]


def _batch(campaign: Campaign, trials: Sequence[Trial]) -> list[Section]:
    """The last batch that was asked for, with the reason of each pick."""
    last = max((trial.batch for trial in trials), default=0)
    if last == 0:
        return []
    batch = [trial for trial in trials if trial.batch == last]
    objective = campaign.wanted.objectives[0]
    ids = {trial.id: cells for trial in batch for cells in [place(campaign, trial)]}
    rows = []
    for trial in batch:
        mean, std = trial.expected or (None, None)
        known = trial.values.get(objective.name)
        value = trial.state if known is None else stated(known)
        rows.append([trial.id, *ids[trial.id], mean, std, value, trial.why or ""])
    header = ["trial", *places(campaign), "expected", "std", objective.name, "why"]
    body = rows_table(*narrow(header, rows))
    if is_molecules(campaign) or is_products(campaign):
        body = cards([_card(campaign, trial, objective) for trial in batch[:_CARDS]]) + body
    return [(f"Batch {last} and why", body)]


def _where(campaign: Campaign, trial: Trial) -> str:
    """A molecule with its id, a product with its reagents, or settings with their names."""
    cells = list(zip(places(campaign), place(campaign, trial), strict=True))
    if is_molecules(campaign) or is_products(campaign):
        return " ".join(filter(None, (as_text(cell) for name, cell in cells if not is_reagent_smiles(name))))
    return ", ".join(f"{name} {as_text(cell)}" for name, cell in cells)


def _card(campaign: Campaign, trial: Trial, objective: Objective) -> tuple[str, list[str], list[Part]]:
    """A drawing with what is known and expected of it, and what it is made of."""
    value = trial.values.get(objective.name)
    lines = [f"trial {trial.id}: {trial.state if value is None else stated(value, objective.unit)}"]
    why = trial.why or ""
    if trial.expected is not None and not why.startswith("expected "):  # the reason begins with it
        lines.append(f"expected {trial.expected[0]:.4g} ± {trial.expected[1]:.2g}")
    lines += [why] * bool(why)
    ids = library_ids(campaign)
    if ids is not None and trial.index is not None:
        lines.append(f"id {ids[trial.index]}")
    if not (is_molecules(campaign) or is_products(campaign)):
        return "", [*lines, _where(campaign, trial)], []
    parts = reagent_parts(campaign.space, trial) if campaign.has_space else []
    if is_products(campaign) and trial.x and not parts:
        lines.append(JOINT.join(map(str, trial.x[1:])))
    name = trial.label or trial.key or ""
    return molecule_svg(name) if trial.label else "", [*lines, name], parts

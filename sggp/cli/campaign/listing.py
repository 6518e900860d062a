"""Trials as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sggp.bayesopt import Campaign, Trial
from sggp.bayesopt.outcomes.results import stated
from sggp.bayesopt.trials import Measurement
from sggp.cli.campaign.opening import is_products
from sggp.cli.console import csv_text, stdout
from sggp.files import write_whole

_NAMED = 5
_POLICIES = {
    "parent": "whatever their salts, solvates and charges",
    "flat": "whatever their salts, solvates, charges, stereo and tautomers",
}


def places(campaign: Campaign) -> list[str]:
    """The columns that say what was, or is to be, measured."""
    if campaign.has_space and not is_molecules(campaign):
        return list(campaign.space.names)
    if is_products(campaign):
        most = max(len(one["sizes"]) for one in campaign.settings["space"]["reactions"])
        return ["smiles", "reaction", *(f"reagent_{number}" for number in range(1, most + 1))]
    return ["id", "smiles"] if library_ids(campaign) is not None else ["smiles"]


def goals(campaign: Campaign) -> list[str]:
    """What is looked for: "maximise yield", "purity at least 90"."""
    wanted = campaign.wanted
    said = [f"{'maximise' if one.maximize else 'minimise'} {one.name}" for one in wanted.objectives]
    for limit in wanted.constraints:
        ends = [(limit.at_least, "at least"), (limit.at_most, "at most")]
        said += [f"{limit.name} {words} {end:g}" for end, words in ends if end is not None]
    return said


def is_molecules(campaign: Campaign) -> bool:
    """Whether the campaign chooses from a pool."""
    return campaign.settings["space"].get("kind") == "pool"


def library_ids(campaign: Campaign) -> Any:
    """The ids of the library's rows, where it is there and has some."""
    if not campaign.has_space or not is_molecules(campaign):
        return None
    return getattr(getattr(campaign.space, "table", None), "ids", None)


def place(campaign: Campaign, trial: Trial) -> list[Any]:
    """The cells of `places`."""
    if campaign.has_space and not is_molecules(campaign):
        return list(campaign.space.cells(trial))
    if is_products(campaign):
        cells = [trial.label or trial.key, *(trial.x or ())]
        return cells + [""] * (len(places(campaign)) - len(cells))
    ids = library_ids(campaign)
    name = trial.label or trial.key or "(features only)"
    if ids is None:
        return [name]
    return [None if trial.index is None else ids[trial.index], name]


def listing(
    campaign: Campaign, trials: Sequence[Trial], *, results: bool, text: Callable[[Measurement], str] = stated
) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: the trial, where it is, and either what was measured or what is expected and why.

    `text` writes a measurement: for people unless it is `str`, which loses no digit.
    """
    header = ["trial", *places(campaign)]
    if results:
        rows = [
            [t.id, *place(campaign, t), t.state, *_measured(campaign, t, text), t.reason or ""]
            for t in trials
        ]
        return [*header, "state", *campaign.outcomes, "reason"], rows
    rows = [[t.id, *place(campaign, t), *(t.expected or (None, None)), t.why or ""] for t in trials]
    return [*header, "expected", "std", "why"], rows


def _measured(campaign: Campaign, trial: Trial, text: Callable[[Measurement], str]) -> list[str]:
    return [text(trial.values[name]) if name in trial.values else "" for name in campaign.outcomes]


def write_batch(path: Any, campaign: Campaign, trials: Sequence[Trial]) -> None:
    """A CSV file of trials to be filled in, for `tell --from`: an empty cell for each outcome, and for a reason."""
    header, rows = listing(campaign, trials, results=False)
    empty = [""] * (len(campaign.outcomes) + 1)
    write_whole(path, csv_text([*header, *campaign.outcomes, "reason"], ([*row, *empty] for row in rows)))


def same_molecules(campaign: Campaign) -> list[str]:
    """Which molecules the campaign takes as the same, and which of those it met; nothing where only equal ones."""
    policy = campaign.standardise
    if policy == "none":
        return []
    said = [f"molecules are the same by {policy}: {_POLICIES[policy]}"]
    if campaign.has_space:
        twins = int(len(campaign.space) - campaign.space.capacity)  # type: ignore[arg-type]
        said.append(
            f"rows of the library that are the same molecule as an earlier one: {twins}" if twins else ""
        )
    found = campaign.parent_matches()
    labels = {trial.id: trial.label for trial in campaign.results()}
    for match in found[:_NAMED]:
        of = match.parent if match.of < 0 else campaign.space.label(match.of)  # type: ignore[attr-defined]
        said.append(match.describe(f"trial {match.row}, {labels[match.row]}", str(of)))
    more = len(found) - _NAMED
    return [*filter(None, said), *([f"and {more} more trials of other forms"] if more > 0 else [])]


def as_json(campaign: Campaign, trial: Trial) -> dict[str, Any]:
    """Everything about a trial, for programs."""
    where = dict(zip(places(campaign), place(campaign, trial), strict=True))
    return {
        "trial": trial.id,
        "place": where,
        "key": trial.key,
        "state": trial.state,
        "values": {
            name: {"value": m.value, "noise_std": m.noise_std, "censored": m.censored}
            for name, m in trial.values.items()
        },
        "reason": trial.reason,
        "policy": trial.policy,
        "batch": trial.batch,
        "source": trial.source,
        "asked_at": trial.asked_at,
        "told_at": trial.told_at,
        "expected": trial.expected,
        "why": trial.why,
        "cost": trial.cost,
    }


def print_json(content: Any) -> None:
    """One JSON document on stdout; in ASCII where stdout cannot take every character."""
    stream = stdout().file
    whole = (getattr(stream, "encoding", None) or "").lower().startswith("utf")
    stream.write(json.dumps(content, indent=1, ensure_ascii=not whole) + "\n")
    stream.flush()

"""`sggp campaign status`, `results`, `history`, `report`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from sggp.bayesopt import Campaign, Trial
from sggp.bayesopt.outcomes import stated
from sggp.bayesopt.trials import Measurement
from sggp.cli.campaign.listing import as_json, goals, listing, print_json, same_molecules
from sggp.cli.campaign.opening import (
    Json,
    Library,
    Store,
    files_of,
    is_products,
    local_files,
    open_record,
    try_campaign,
)
from sggp.cli.console import check_outputs, print_table, stderr, stdout
from sggp.cli.molecules.products import making, narrow
from sggp.errors import SggpError
from sggp.files import write_whole

_BEST = 10


def status(
    store: Store,
    outlook: Annotated[
        bool, typer.Option("--outlook", help="Is it worth going on? Needs the library, and its time.")
    ] = False,
    library: Library = None,
    json: Json = False,
) -> None:
    """Show what is measured and pending, and the best so far."""
    campaign = try_campaign(store, library) if outlook or library is not None else open_record(store)
    said = None
    if outlook and campaign.has_space:
        what = (
            "what a search looks at"
            if is_products(campaign)
            else "the whole space; a large library takes minutes"
        )
        stderr().print(f"asking joint samples of {what}")
        try:
            with making(campaign.space, "nothing was changed"):
                said = campaign.outlook()
        except SggpError as error:  # the rest is shown
            stderr().print(f"note: no outlook: {error}")
    if json:
        content = _summary(store, campaign)
        print_json({**content, "outlook": None if said is None else said.as_dict()})
        return
    for line in (headline(store, campaign), *same_molecules(campaign)):
        stdout().print(line)
    best = campaign.best(_BEST)
    if best:
        print_table("best so far", *narrow(*listing(campaign, best, results=True)))
    if front := _front(campaign):
        print_table(
            "no trial beats these in all objectives", *narrow(*listing(campaign, front, results=True))
        )
    waiting = campaign.pending
    if waiting:
        print_table("pending", *narrow(*listing(campaign, waiting, results=False)))
    for sentence in [] if said is None else said.sentences():
        stdout().print(sentence)


def headline(store: str, campaign: Campaign) -> str:
    """What is looked for, how much is measured, what it cost."""
    states = Counter(trial.state for trial in campaign.results())
    counted = ", ".join(f"{states[name]} {name}" for name in ("measured", "pending", "failed"))
    if states["withdrawn"]:
        counted += f", {states['withdrawn']} withdrawn"
    text = f"{store}: {', '.join(goals(campaign))}; {counted}"
    return text if campaign.budget is None else f"{text}; {campaign.spent:g} of {campaign.budget:g} spent"


def _front(campaign: Campaign) -> list[Trial]:
    """The trials that no other beats in every objective, where there are several objectives."""
    return list(campaign.pareto().trials) if len(campaign.wanted.objectives) > 1 else []


def _summary(store: str, campaign: Campaign) -> dict[str, Any]:
    trials = campaign.results()
    front = _front(campaign)
    return {
        "campaign": store,
        "maximize": campaign.maximize,
        "outcomes": campaign.outcomes,
        "counts": dict(Counter(trial.state for trial in trials)),
        "best": _listed(campaign, campaign.best(_BEST)),
        "front": [trial.id for trial in front],
        "pending": _listed(campaign, campaign.pending),
        "standardise": campaign.standardise,
        "same_molecules": same_molecules(campaign),
        "budget": campaign.budget,
        "spent": campaign.spent,
    }


def _listed(campaign: Campaign, trials: list[Trial]) -> list[dict[str, Any]]:
    return [as_json(campaign, trial) for trial in trials]


def results(store: Store, json: Json = False) -> None:
    """List every trial."""
    campaign = open_record(store)
    trials = campaign.results()
    if json:
        print_json(_listed(campaign, trials))
    else:
        print_table(f"{len(trials)} trials", *narrow(*listing(campaign, trials, results=True)))


def history(
    store: Store,
    trial: Annotated[int | None, typer.Argument(help="Of one trial; default: of all.")] = None,
    json: Json = False,
) -> None:
    """Show the journal: who asked, told, corrected and withdrew what, when and why."""
    events = open_record(store).history(trial)
    if json:
        print_json([_event(event) for event in events])
        return
    rows = [[e.number, e.at, e.what, e.trial, _data(e.data), e.reason or ""] for e in events]
    print_table(f"journal of {store}", ["event", "time (UTC)", "what", "trial", "data", "reason"], rows)


def _event(event: Any) -> dict[str, Any]:
    names = ("number", "at", "what", "trial", "data", "reason", "program")
    return {name: getattr(event, name) for name in names}


def _data(data: dict[str, Any]) -> str:
    """The values of an event, else what it is about."""
    values = data.get("values")
    if values:
        return ", ".join(f"{name} {stated(Measurement(*parts))}" for name, parts in values.items())
    return str(data.get("label") or data.get("key") or "")


def report(
    store: Store,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    library: Library = None,
    json: Json = False,
) -> None:
    """Write a page about the campaign: results, model, picks with their reasons, and whether to go on."""
    from sggp.cli.campaign.report import render
    from sggp.plotting import new_figure

    check_outputs({"--out": out}, [*local_files(store), library])
    new_figure()  # without matplotlib, refuse before the work
    campaign = try_campaign(store, library)
    check_outputs({"--out": out}, files_of(campaign, store))
    with making(campaign.space if campaign.has_space else None, "no page was written"):
        page = render(store, campaign)
    write_whole(out, page)
    if json:
        print_json({"campaign": store, "file": str(out)})
    else:
        stdout().print(f"report in {out}")

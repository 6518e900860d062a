"""`sggp campaign ask`, `tell`, `fail`, `attach`, `amend`, `withdraw`, `pending`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sggp.bayesopt import Campaign, Trial
from sggp.bayesopt.outcomes import stated
from sggp.bayesopt.trials import POLICIES, Measurement
from sggp.checks import whole_number
from sggp.cli.campaign.listing import as_json, listing, print_json, write_batch
from sggp.cli.campaign.naming import JOINT, Names, point_of
from sggp.cli.campaign.opening import (
    Json,
    Library,
    Out,
    Reason,
    Store,
    files_of,
    is_products,
    local_files,
    open_campaign,
    open_record,
    try_campaign,
)
from sggp.cli.campaign.results_file import Results, check_batch, measured_before, read_attached, read_results
from sggp.cli.console import check_outputs, print_table, say, stderr, stdout
from sggp.cli.molecules.products import making, narrow
from sggp.cli.molecules.tables import Decimal, Sheet, write_rejects
from sggp.cli.outputs import rejected_path
from sggp.errors import InputError, SggpError

PARTLY = 1
"""Exit code where some rows of a file were used and others not."""

Number = Annotated[
    str,
    typer.Argument(help='Number of the trial; or its SMILES, or the ids of its reagents as "A1 + B2 + C3".'),
]
_VALUES = "its measurement: 7.1, -8.8, '>10', '7.1±0.2'; or NAME=VALUE for each outcome."
Values = Annotated[list[str] | None, typer.Argument(help="The value as it should be, as for tell.")]
From = Annotated[
    Path | None, typer.Option("--from", help="File with a column for each outcome (csv, xlsx, parquet).")
]
Cost = Annotated[float | None, typer.Option("--cost", help="What it cost.")]


def ask(
    store: Store,
    q: Annotated[int, typer.Option("-q", "--batch-size", help="How many points.")] = 1,
    out: Out = None,
    library: Library = None,
    json: Json = False,
) -> None:
    """Get the next points to measure; they are on disk before they are shown."""
    whole_number(q, "-q")
    check_outputs({"--out": out}, local_files(store))
    campaign = open_campaign(store, library)
    check_outputs({"--out": out}, files_of(campaign, store))
    check_batch(campaign, store, out)
    with making(campaign.space, "nothing was asked for"):
        trials = campaign.ask(q)
    try:
        _show_batch(campaign, trials, f"{len(trials)} points to measure", out, json)
    except BrokenPipeError:
        raise
    except (OSError, SggpError) as error:
        stderr().print(
            f"{error}. The trials are stored all the same: sggp campaign pending {store} lists them"
        )
        raise typer.Exit(PARTLY) from error
    if len(trials) < q:
        raise typer.Exit(PARTLY)


def pending(store: Store, out: Out = None, json: Json = False) -> None:
    """List the trials that wait for a result."""
    campaign = open_record(store)
    check_outputs({"--out": out}, files_of(campaign, store))
    check_batch(campaign, store, out)
    trials = campaign.pending
    _show_batch(campaign, trials, f"{len(trials)} pending", out, json)


def tell(
    store: Store,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRIAL VALUE",
            help=f'Number of the trial, or its SMILES, or the ids of its reagents as "A1 + B2 + C3"; and {_VALUES}',
        ),
    ] = None,
    file: From = None,
    cost: Cost = None,
    sheet: Sheet = None,
    decimal: Decimal = None,
    json: Json = False,
) -> None:
    """Report measurements: of one trial on the command line, or of many from a file."""
    if file is not None:
        if words or cost is not None:
            raise InputError(
                "give either one trial with its value, or --from FILE, which has columns for the rest."
            )
        campaign = open_record(store)
        found = read_results(campaign, file, sheet=sheet, decimal=decimal, open_library=_library(store))
        _store_file(campaign, store, file, found, json)
        return
    if not words or len(words) < 2:
        raise InputError("give a trial number and its value, or --from FILE.")
    campaign = open_record(store)
    number = Names(campaign, _library(store)).number(words[0])
    stored = campaign.tell(number, _outcomes(campaign, words[1:]), cost=cost)
    _stored(campaign, [stored], f"trial {stored.id} of {store}: {_said(stored)}", json)


def fail(
    store: Store,
    trial: Number,
    reason: Reason = "",
    policy: Annotated[
        str,
        typer.Option(
            help=f"What it means: {', '.join(POLICIES)}; excluded: not asked for again, retry: it may be, imputed: "
            "as excluded, and it counts as the worst value."
        ),
    ] = "excluded",
    cost: Cost = None,
    json: Json = False,
) -> None:
    """Report that a trial could not be measured."""
    campaign = open_record(store)
    stored = campaign.fail(Names(campaign, _library(store)).number(trial), reason, policy=policy, cost=cost)
    _stored(campaign, [stored], f"trial {stored.id} of {store} failed; {policy}", json)


def attach(
    store: Store,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PLACE VALUE",
            help=f"A SMILES, ids of reagents as for tell, or NAME=VALUE,NAME=VALUE; and {_VALUES}",
        ),
    ] = None,
    file: From = None,
    cost: Cost = None,
    sheet: Sheet = None,
    decimal: Decimal = None,
    json: Json = False,
) -> None:
    """Add measurements that were made elsewhere, or once more."""
    campaign = open_record(store)
    if file is not None:
        if words or cost is not None:
            raise InputError("give either one measurement or --from FILE, not both.")
        if is_products(campaign):
            campaign = try_campaign(store, None)  # its reagents may be named
        found = read_attached(campaign, file, sheet=sheet, decimal=decimal)
        again, count = measured_before(campaign, found.attached), len(found.attached)
        if count > 1 and len(again) == count:
            raise InputError(
                f"all {count} measurements are in {store} already, the first as trial {again[0]}: nothing was stored. "
                "One that was made again, and gave the same value, can be attached by itself."
            )
        if again:
            said = f"{len(again)} of the {count} measurements were there already, and count twice now"
            found.notes.append(f"{said}: the first is trial {again[0]}")
        _store_file(campaign, store, file, found, json)
        return
    if not words or len(words) < 2:
        raise InputError("give what was measured and its value, or --from FILE.")
    if is_products(campaign) and JOINT in words[0]:
        campaign = open_campaign(store, None)
    box = campaign.settings["space"].get("kind") == "box"
    where: Any = _point(words[0]) if box else words[0]
    stored = campaign.attach(where, _outcomes(campaign, words[1:]), cost=cost)
    _stored(campaign, [stored], f"trial {stored.id} of {store}: {_said(stored)}", json)


def amend(
    store: Store,
    trial: Number,
    values: Values = None,
    reason: Reason = "",
    cost: Cost = None,
    json: Json = False,
) -> None:
    """Correct a value; the old one stays in the journal, with the reason."""
    if not values:
        raise InputError("give the value as it should be.")
    _check_reason(reason)
    campaign = open_record(store)
    number = Names(campaign, _library(store)).number(trial)
    stored = campaign.amend(number, _outcomes(campaign, values), reason, cost=cost)
    _stored(campaign, [stored], f"trial {stored.id} of {store}: {_said(stored)}", json)


def withdraw(store: Store, trial: Number, reason: Reason = "", json: Json = False) -> None:
    """Take a trial back: it no longer counts, and its place may be asked for again."""
    _check_reason(reason)
    campaign = open_record(store)
    stored = campaign.withdraw(Names(campaign, _library(store)).number(trial), reason)
    _stored(campaign, [stored], f"trial {stored.id} of {store} withdrawn", json)


def _show_batch(
    campaign: Campaign, trials: Sequence[Trial], title: str, out: Path | None, json: bool
) -> None:
    if out is not None:
        write_batch(out, campaign, trials)
    if json:
        print_json([as_json(campaign, trial) for trial in trials])
    elif trials:
        print_table(title, *narrow(*listing(campaign, trials, results=False)))
    else:
        stdout().print(title)
    if out is not None and not json:
        stdout().print(f"the same in {out}: fill in the results, then sggp campaign tell ... --from {out}")


def _library(store: str) -> Callable[[], Campaign]:
    """Opens the campaign with its library, for ids."""
    return lambda: open_campaign(store, None)


def _outcomes(campaign: Campaign, values: list[str]) -> Any:
    """One measurement, or one for each NAME=VALUE."""
    parts = [text.partition("=") for text in values]
    if all(sign and name.strip() in campaign.outcomes for name, sign, _ in parts):
        _once([name.strip() for name, _, _ in parts])
        return {name.strip(): _measurement(text) for name, _, text in parts}
    if len(values) > 1:
        raise InputError(
            f"give one value, or NAME=VALUE for each of {', '.join(campaign.outcomes)}; got {' '.join(values)!r}."
        )
    return _measurement(values[0])


def _measurement(text: str) -> Measurement:
    """A value, perhaps with its standard error after ± or +-."""
    value, sign, error = text.replace("+/-", "±").replace("+-", "±").partition("±")
    found = Measurement.parse(value.strip())
    return (
        found
        if not sign
        else Measurement(found.value, Measurement.parse(error.strip()).value, found.censored)
    )


def _point(text: str) -> dict[str, Any]:
    parts = [part.partition("=") for part in text.split(",")]
    if not all(sign for _, sign, _ in parts):
        raise InputError(f"settings must be NAME=VALUE,NAME=VALUE,..., got {text!r}.")
    _once([name.strip() for name, _, _ in parts])
    return point_of({name.strip(): value.strip() for name, _, value in parts})


def _once(names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{twice[0]!r} twice: give each name once.")


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InputError('say why with --reason "...": the journal keeps it beside what was there before.')


def _said(trial: Trial) -> str:
    values = ", ".join(f"{name} {stated(value)}" for name, value in trial.values.items())
    return values if trial.label is None else f"{values}, of {trial.label}"


def _stored(campaign: Campaign, trials: Sequence[Trial], text: str, json: bool) -> None:
    if json:
        print_json([as_json(campaign, trial) for trial in trials])
    else:
        stdout().print(text)


def _store_file(campaign: Campaign, store: str, file: Path, found: Results, json: bool) -> None:
    """Store the good rows of a file, and list the others; the exit code tells."""
    say(file.name, found.notes)
    stored = campaign.attach_many(found.attached, costs=found.attached_costs) if found.attached else []
    if found.told or found.failed:
        stored = campaign.tell_many(found.told, failed=found.failed, costs=found.costs)
    if found.waiting:
        lines = ", ".join(map(str, found.waiting[:10])) + (", ..." if len(found.waiting) > 10 else "")
        stderr().print(f"{len(found.waiting)} rows without a value yet, left as they are (line {lines})")
    failed = f", {len(found.failed)} failures among them" if found.failed else ""
    _stored(campaign, stored, f"{len(stored)} results stored in {store}{failed}", json)
    if not found.rejects:
        if not stored:
            raise InputError(f"{file}: no row has a value yet; nothing was stored.")
        return
    path = rejected_path(file, file, *local_files(store))
    write_rejects(path, found.rejects)
    for reject in found.rejects[:10]:
        stderr().print(f"not stored: {file} line {reject.line}: {reject.reason}")
    stderr().print(f"{len(found.rejects)} rows were not stored; all are in {path}")
    raise typer.Exit(PARTLY if stored else 2)

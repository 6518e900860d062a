"""`sggp campaign init`."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from sggp.bayesopt import Box, Campaign, Pool
from sggp.bayesopt.outcomes import Constraint, Objective
from sggp.bayesopt.rules import DEFAULT_BOX_RULE, DEFAULT_RULE, RULES, check_rule
from sggp.bayesopt.spaces.columns import Categorical, Continuous, Integer, Ordinal
from sggp.bayesopt.storage import Storage, open_storage
from sggp.bayesopt.trials import Measurement
from sggp.checks import direction as direction_of
from sggp.cli.campaign.listing import goals, print_json, same_molecules
from sggp.cli.campaign.opening import Json, Store, local_files, open_record, read_library
from sggp.cli.console import check_outputs, direction, say, stderr, stdout
from sggp.cli.molecules.products import (
    products_cache,
    read_space,
    recall_products,
    space_files,
    unused_reagents,
)
from sggp.cli.molecules.tables import Decimal, Measured, Reject, Sheet, load_measured, write_rejects
from sggp.cli.outputs import rejected_path
from sggp.errors import DataFileError, InputError
from sggp.molecules import SmilesFingerprinter, read_table
from sggp.molecules.standardise import POLICIES

_RULES = f"How to choose: {', '.join(RULES)}; default {DEFAULT_RULE}, in a box {DEFAULT_BOX_RULE}."
_TAKEN = ("trial", "expected", "std", "why", "reason")  # columns of batches
_MOLECULE = ("id", "smiles", "reaction", *(f"reagent_{number}" for number in range(1, 5)))
_OURS = (*_TAKEN, "id", "cost", "state")
_CONSTRAINT = re.compile(r"\s*(.+?)\s*(>=|<=|≥|≤)\s*([^<>=]+?)\s*")


_Library = Annotated[
    Path | None, typer.Option(help="Molecules to choose from: CSV, smi, xlsx, parquet, sdf; gz accepted.")
]
_Reaction = Annotated[
    Path | None, typer.Option(help="Products to choose from: a JSON file of reactions and lists of reagents.")
]
_Bound = Annotated[
    list[str] | None, typer.Option(help="A number as NAME=LOW:HIGH, or NAME=LOW:HIGH:log; one per input.")
]
_Integer = Annotated[list[str] | None, typer.Option(help="A whole number as NAME=LOW:HIGH.")]
_Levels = Annotated[list[str] | None, typer.Option(help="Ordered levels as NAME=1,2,5.")]
_Choice = Annotated[list[str] | None, typer.Option(help="Categories as NAME=THF,DMF,water.")]
_Maximize = Annotated[bool, typer.Option("--maximize", help="Larger values are better.")]
_Minimize = Annotated[bool, typer.Option("--minimize", help="Smaller values are better.")]
_Name = Annotated[str | None, typer.Option(help="What is measured, e.g. pIC50; also its column.")]
_Unit = Annotated[str, typer.Option(help="Its unit.")]
_Objective = Annotated[
    list[str] | None,
    typer.Option(help="One of several objectives, as NAME:max or NAME:min:UNIT; in place of --maximize."),
]
_Constraint = Annotated[
    list[str] | None, typer.Option(help='What an outcome must meet, as "NAME>=1.5" or "NAME<=3".')
]
_Measured = Annotated[Path | None, typer.Option(help="Measurements made before (library campaigns).")]
_SmilesColumn = Annotated[str | None, typer.Option(help="SMILES column of the measured file.")]
_ValueColumn = Annotated[str | None, typer.Option(help="Value column of the measured file.")]
_LibrarySmilesColumn = Annotated[str | None, typer.Option(help="SMILES column of the library.")]
_IdColumn = Annotated[str | None, typer.Option(help="Id column of the library.")]
_LibrarySheet = Annotated[str | None, typer.Option(help="Sheet of the library.")]
_Seed = Annotated[int | None, typer.Option(help="Makes the campaign reproducible.")]
_Rule = Annotated[str | None, typer.Option(help=_RULES)]
_Standardise = Annotated[
    str | None, typer.Option(help=f"Forms that are one molecule: {', '.join(POLICIES)}; default none.")
]
_Budget = Annotated[float | None, typer.Option(help="What all trials together may cost.")]


def init(
    store: Store,
    library: _Library = None,
    reaction: _Reaction = None,
    bound: _Bound = None,
    integer: _Integer = None,
    levels: _Levels = None,
    choice: _Choice = None,
    maximize: _Maximize = False,
    minimize: _Minimize = False,
    name: _Name = None,
    unit: _Unit = "",
    objective: _Objective = None,
    constraint: _Constraint = None,
    measured: _Measured = None,
    smiles_column: _SmilesColumn = None,
    value_column: _ValueColumn = None,
    library_smiles_column: _LibrarySmilesColumn = None,
    id_column: _IdColumn = None,
    sheet: Sheet = None,
    library_sheet: _LibrarySheet = None,
    decimal: Decimal = None,
    seed: _Seed = None,
    rule: _Rule = None,
    budget: _Budget = None,
    standardise: _Standardise = None,
    json: Json = False,
) -> None:
    """Start a campaign over a library of molecules, the products of reactions, or a box of settings."""
    wanted = _wanted(maximize, minimize, name, unit, objective or [], constraint or [])
    _ = rule is None or check_rule(rule)
    kept = _new(store, library, reaction, measured)
    settings = {**wanted, "seed": seed, "rule": rule, "budget": budget, "standardise": standardise}
    columns = _columns(bound or [], integer or [], levels or [], choice or [])
    _check_names(columns, wanted)
    _check_one(library, reaction, columns, measured)
    if columns:
        campaign = Campaign(Box(columns), kept, **settings)
    else:
        info: dict[str, Any] = {"smiles": library_smiles_column, "id": id_column, "sheet": library_sheet}
        start = _of_products(store, reaction) if reaction is not None else _of_library(library, info)
        prior: list[tuple[str, Measurement]] = []
        rejects = start.rejects
        if measured is not None:
            data = read_table(measured, sheet=sheet, decimal=decimal)
            names = {"smiles_column": smiles_column, "value_column": value_column}
            known = load_measured(data, **names, fingerprinter=start.fingerprinter, bounds=True)
            rejects, prior = rejects + known.rejects, _prior(known, measured)
            recall_products(start.space, data)
        for path in local_files(store):
            _write_rejects(path, rejects, library, reaction, measured)
        with _appearing(store) as place:
            begun = Campaign(start.space, place, **settings, info=start.info)
            begun.attach_many(prior)
            say("molecules", same_molecules(begun))
        campaign = open_record(store)
    _say_started(store, campaign, json)


def _check_one(library: Any, reaction: Any, columns: dict[str, Any], measured: Any) -> None:
    if sum((library is not None, reaction is not None, bool(columns))) != 1:
        raise InputError(
            "give one of --library FILE, --reaction FILE, or the settings: --bound NAME=LOW:HIGH, --integer, --levels, "
            "--choice."
        )
    if columns and measured is not None:
        raise InputError("--measured is for libraries; for settings: sggp campaign attach --from.")


class _Start(NamedTuple):
    """Candidates that are molecules, the rows that were left out, how they are encoded, and what is kept of it."""

    space: Any
    rejects: list[Reject]
    fingerprinter: SmilesFingerprinter
    info: dict[str, Any]


def _of_library(library: Any, info: dict[str, Any]) -> _Start:
    table, rejects = read_library(library, {**info, "fingerprint": None})
    kept = {**info, "library": str(library.resolve()), "fingerprint": table.settings}
    return _Start(Pool(table), rejects, table.fingerprinter(), kept)


def _of_products(store: str, file: Path) -> _Start:
    space = read_space(file, cache=products_cache())
    for path in local_files(store):
        check_outputs({"the campaign": path}, space_files(space))
    library = space.library
    kept = {"reaction": str(file.resolve()), "fingerprint": library.settings.plain()}
    return _Start(space, unused_reagents(space), library.fingerprinter, kept)


def _new(store: str, *inputs: Path | None) -> Storage:
    """Where the campaign is to be; refuses one that is there, and a file that is read."""
    kept = open_storage(store)
    if kept.exists:
        raise InputError(f"{store} exists already; a campaign is never overwritten.")
    for path in local_files(store):
        check_outputs({"the campaign": path}, inputs)
    return kept


@contextmanager
def _appearing(store: str) -> Iterator[str]:
    """Where to begin a campaign whose file appears with all its measurements, or not at all."""
    if not local_files(store):
        yield store
        return
    path = Path(store)
    place = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield str(place)
        try:
            os.link(place, path)  # unlike a renamed file it never replaces one that was made meanwhile
        except FileExistsError as error:
            raise InputError(f"{store} exists already; a campaign is never overwritten.") from error
        except OSError:  # a file system without links
            place.rename(path)
    finally:
        place.unlink(missing_ok=True)


def _say_started(store: str, campaign: Campaign, json: bool) -> None:
    count = sum(trial.state == "measured" for trial in campaign.results())
    if json:
        print_json({"campaign": store, "measured": count, **campaign.settings})
        return
    stdout().print(f"campaign {store}: {', '.join(goals(campaign))}; {count} measured")


def _check_names(columns: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse inputs and outcomes that are called as other columns of a batch are."""
    outcomes = [item.name for item in (*wanted.get("objectives", ()), *wanted.get("constraints", ()))]
    for name in outcomes:
        if name in (*_TAKEN, *([] if columns else _MOLECULE)):
            raise InputError(
                f"an outcome cannot be called {name!r}: batches have such a column; take another name."
            )
    for name in columns:
        if name in (*_OURS, *(outcomes or ["value"])):
            raise InputError(
                f"an input cannot be called {name!r}: batches have such a column; take another name."
            )


def _write_rejects(store: Path, rejects: list[Reject], *others: Path | None) -> None:
    path = rejected_path(store.with_suffix(".csv"), store, *others)
    write_rejects(path, rejects)
    if rejects:
        stderr().print(f"{len(rejects)} rows are listed in {path}, each with its reason")


def _prior(known: Measured, file: Path) -> list[tuple[str, Measurement]]:
    if not len(known):
        raise DataFileError(f"{file}: no usable measurement ({len(known.rejects)} unused rows).")
    sides = known.censored or (None,) * len(known)
    told = zip(known.smiles, known.values.tolist(), known.errors.tolist(), sides, strict=True)
    return [
        (smiles, Measurement(value, None if math.isnan(error) else error, side))
        for smiles, value, error, side in told
    ]


def _wanted(
    maximize: bool, minimize: bool, name: str | None, unit: str, objectives: list[str], constraints: list[str]
) -> dict[str, Any]:
    """What is measured and wanted, as arguments of `Campaign`."""
    limits = [_limit(text) for text in constraints]
    if objectives:
        if maximize or minimize or name or unit:
            raise InputError(
                "give either --objective for each, or --maximize or --minimize with --name and --unit."
            )
        return {"objectives": [_objective(text) for text in objectives], "constraints": limits}
    better = direction(maximize, minimize)
    if not (name or unit or limits):
        return {"maximize": better}
    return {"objectives": [Objective(name or "value", better, unit)], "constraints": limits}


def _objective(text: str) -> Objective:
    parts = [part.strip() for part in text.split(":", 2)]
    if len(parts) < 2 or not parts[0]:
        raise InputError(f"--objective must be NAME:max or NAME:min, perhaps with :UNIT; got {text!r}.")
    return Objective(parts[0], direction_of(parts[1], f"the direction of {parts[0]!r}"), *parts[2:])


def _limit(text: str) -> Constraint:
    found = _CONSTRAINT.fullmatch(text)
    try:
        limit = float(found[3]) if found else None
    except ValueError:
        limit = None
    if found is None or limit is None or found[1].endswith(":"):
        raise InputError(f"--constraint must be NAME>=NUMBER or NAME<=NUMBER, without a colon, got {text!r}.")
    return (
        Constraint(found[1], at_least=limit)
        if found[2] in (">=", "≥")
        else Constraint(found[1], at_most=limit)
    )


def _columns(bounds: list[str], integers: list[str], levels: list[str], choices: list[str]) -> dict[str, Any]:
    """The columns of a box, in the order of the options."""
    made: list[tuple[str, Any]] = []
    for option, texts, column in (
        ("--bound", bounds, _continuous),
        ("--integer", integers, _whole),
        ("--levels", levels, _ordinal),
        ("--choice", choices, _categories),
    ):
        for text in texts:
            name, value = column(option, text)
            try:
                made.append((name, value()))
            except InputError as error:
                raise InputError(f"{option} {text}: {error}") from error
    names = [name for name, _ in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"inputs must have different names, got {', '.join(twice)} twice.")
    return dict(made)


def _continuous(option: str, text: str) -> tuple[str, Callable[[], Any]]:
    name, low, high, log = _interval(option, text)
    return name, lambda: Continuous(low, high, log=log)


def _whole(option: str, text: str) -> tuple[str, Callable[[], Any]]:
    name, low, high, log = _interval(option, text)
    if log or low != int(low) or high != int(high):
        raise InputError(f"{option} must be NAME=LOW:HIGH with two whole numbers, got {text!r}.")
    return name, lambda: Integer(int(low), int(high))


def _ordinal(option: str, text: str) -> tuple[str, Callable[[], Any]]:
    name, values = _listed(option, text, numbers=True)
    return name, lambda: Ordinal(tuple(values))


def _categories(option: str, text: str) -> tuple[str, Callable[[], Any]]:
    name, values = _listed(option, text, numbers=False)
    return name, lambda: Categorical(tuple(values))


def _interval(option: str, text: str) -> tuple[str, float, float, bool]:
    name, sign, interval = text.partition("=")
    parts = interval.split(":")
    log = len(parts) == 3 and parts[2].strip() == "log"
    try:
        low, high = (float(end) for end in (parts[:2] if log else parts))
    except ValueError:
        sign = ""
    if not sign or not name.strip():
        raise InputError(f"{option} must be NAME=LOW:HIGH with two numbers, got {text!r}.")
    return name.strip(), low, high, log


def _listed(option: str, text: str, *, numbers: bool) -> tuple[str, list[Any]]:
    name, sign, listed = text.partition("=")
    values: list[Any] = [value.strip() for value in listed.split(",")]
    try:
        values = [float(value) for value in values] if numbers else values
    except ValueError:
        sign = ""
    if not sign or not name.strip() or "" in values:
        what = "numbers" if numbers else "words"
        raise InputError(f"{option} must be NAME=A,B,... with {what} between commas, got {text!r}.")
    return name.strip(), values

"""Results from a user's file: which trial each row is of, and why a row cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sggp.bayesopt import Campaign, Trial
from sggp.bayesopt.binding import canonical
from sggp.bayesopt.given import cost_json
from sggp.bayesopt.trials import Measurement
from sggp.cli.campaign.naming import Molecules, Names, Settings, is_box, settings_of, smiles_column
from sggp.cli.campaign.opening import is_products
from sggp.cli.molecules.products import named_places
from sggp.cli.molecules.tables import Reject, filled_numbers, named, told_errors
from sggp.errors import DataFileError, InputError, SggpError
from sggp.molecules import guess_columns, read_table
from sggp.molecules.files import DataTable, visible
from sggp.molecules.files.measured import measured_numbers
from sggp.molecules.files.numbers import is_missing, parse_whole
from sggp.molecules.files.read import tidy_ids

_TRIAL = "trial"
_REASON = "reason"
_COST = "cost"


@dataclass
class Results:
    """The rows of a file.

    Attributes:
        told: trial → outcomes by name. failed: trial → reason. costs: trial → cost.
        attached: (place, outcomes by name) of rows that name no trial. attached_costs: of each, None where not told.
        waiting: lines without a value. rejects: rows that cannot be used, and why.
        notes: what was decided in reading.
    """

    told: dict[int, dict[str, Measurement]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    costs: dict[int, float] = field(default_factory=dict)
    attached: list[tuple[Any, dict[str, Measurement]]] = field(default_factory=list)
    attached_costs: list[float | None] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_results(
    campaign: Campaign,
    path: Path,
    *,
    sheet: str | None = None,
    decimal: str | None = None,
    open_library: Callable[[], Campaign] | None = None,
) -> Results:
    """The results in a file that `ask --out` wrote and someone filled in, or in any other that says what was measured.

    That is a column "trial"; where there is none, reagents, SMILES, or ids of the library, in this order. A row is
    refused, and the others are used, where its number or its value cannot be read, where the molecule or the settings
    that it names are not those of the trial, or where the trial has another value already.

    Args:
        open_library: gives the campaign with its library, for ids.

    Raises:
        DataFileError: as `read_table`; nothing that says what was measured, or none of the outcomes; no library.
    """
    table, values, found = _values(campaign, path, sheet, decimal)
    name, numbers, bad = _trials_of(campaign, table, open_library)
    known = {trial.id: trial for trial in campaign.results()}
    same: Settings | Molecules = (Settings if is_box(campaign) else Molecules)(campaign, table)
    reasons = table.columns.get(named(table, _REASON) or "", [""] * len(table))
    costs = _costs(campaign, table)
    for position in range(len(table)):
        number = numbers[position]
        try:
            if number is None:
                raise InputError(f"{name}: {bad[position]}")
            if number not in known:
                raise InputError(f"the campaign has no trial {number}")
            same.check(position, known[number])
            cost_json(costs.get(position))
            row = values.get(position, {})
            if isinstance(row, str):
                raise InputError(row)
            if row:
                _unlike_before(known[number], row, costs.get(position))
                if number in found.told and found.told[number] != row:
                    raise InputError(f"trial {number} stands in an earlier line with another value")
                found.told[number] = row
            elif not is_missing(reasons[position]):
                _not_withdrawn(known[number])
                if known[number].state == "measured":
                    raise InputError(
                        f"trial {number} was measured, so it did not fail: withdraw takes it back"
                    )
                found.failed[number] = reasons[position]
            else:
                found.waiting.append(table.line(position))
            if costs.get(position) is not None:
                found.costs[number] = costs[position]
        except InputError as error:
            found.rejects.append(Reject(path.name, table.line(position), str(error), table.content(position)))
    return found


def _trials_of(
    campaign: Campaign, table: DataTable, open_library: Callable[[], Campaign] | None
) -> tuple[str, list[int | None], dict[int, str]]:
    """The trial of each row: by which column, its number, and by position why there is none."""
    own = named(table, _TRIAL)
    if own is not None:
        return own, *parse_whole(table.columns[own])
    names = Names(campaign, open_library)
    reagents, smiles = named_places(table), None if is_box(campaign) else smiles_column(table)
    ids = None if is_box(campaign) or open_library is None else _id_column(campaign, table)
    find: Callable[[int], int]
    if reagents is not None and not is_box(campaign):
        name = "reagents"

        def find(position: int) -> int:
            place = reagents[position]
            if place is None:
                return names.of_smiles("" if smiles is None else table.columns[smiles][position])
            return names.of_reagents([str(part) for part in place.x or ()])
    elif smiles is not None:
        name, cells = "smiles", table.columns[smiles]

        def find(position: int) -> int:
            return names.of_smiles(cells[position])
    elif ids is not None:
        name, known = ids, tidy_ids(table, ids)
        names.read_ids()

        def find(position: int) -> int:
            return names.of_id(known[position])
    else:
        raise DataFileError(
            f"{table.path}: there is no column 'trial' (the numbers that `ask` printed); the columns are "
            f"{', '.join(table.header)}. For measurements of other things: sggp campaign attach --from."
        )
    numbers, bad = list[int | None](), dict[int, str]()
    for position in range(len(table)):
        try:
            numbers.append(find(position))
        except InputError as error:
            numbers.append(None)
            bad[position] = str(error)
    return name, numbers, bad


def _id_column(campaign: Campaign, table: DataTable) -> str | None:
    """The column of ids of the library: that of its name, or as `guess_columns` finds it."""
    own = campaign.info.get("id")
    return own if own in table.columns else guess_columns(table).id


def check_batch(campaign: Campaign, store: str, out: Path | None) -> None:
    """Refuse to write over a file of results that the campaign does not have.

    Raises:
        DataFileError: a row of `out` has a value, or a reason, that was not told, or cannot be.
    """
    if out is None or not out.is_file():
        return
    try:
        table = read_table(out)
    except DataFileError:  # no table
        return
    columns = [*_outcome_columns(campaign, table).values(), named(table, _REASON)]
    cells = [table.columns[name] for name in columns if name is not None]
    held = {table.line(i) for i in range(len(table)) if not all(is_missing(column[i]) for column in cells)}
    held |= {row.line for row in table.rejected}
    if len(columns) == 1 or not held:
        return
    try:
        found = read_results(campaign, out)
        trials = {trial.id: trial for trial in campaign.results()}
        told = all(trials[number].values.get(name) for number, row in found.told.items() for name in row)
        failed = all(trials[number].state != "pending" for number in found.failed)
        kept = told and failed and not any(reject.line in held for reject in found.rejects)
    except DataFileError:  # its trials, or its numbers, are in doubt
        kept = False
    if not kept:
        raise DataFileError(
            f"cannot write {out}: it holds results that {store} does not have. First sggp campaign tell {store} "
            f"--from {out}, or choose another name."
        )


def read_attached(
    campaign: Campaign, path: Path, *, sheet: str | None = None, decimal: str | None = None
) -> Results:
    """Measurements of molecules, or of settings by the names of the inputs, that no trial asked for.

    Raises:
        DataFileError: as `read_table`; a column is missing.
    """
    table, values, found = _values(campaign, path, sheet, decimal)
    places, costs = _places(campaign, table), _costs(campaign, table)
    for position in range(len(table)):
        try:
            row = values.get(position, {})
            if isinstance(row, str):
                raise InputError(row)
            if not row:
                found.waiting.append(table.line(position))
                continue
            campaign.check(places[position], row)
            cost_json(costs.get(position))
            found.attached.append((places[position], row))
            found.attached_costs.append(costs.get(position))
        except SggpError as error:
            found.rejects.append(Reject(path.name, table.line(position), str(error), table.content(position)))
    return found


def _values(
    campaign: Campaign, path: Path, sheet: str | None, decimal: str | None
) -> tuple[DataTable, dict[int, dict[str, Measurement] | str], Results]:
    """The table; per row its outcomes, or why they cannot be read; and the rows that are no rows."""
    table = read_table(path, sheet=sheet, decimal=decimal)
    notes = list(table.notes)
    names = _outcome_columns(campaign, table)
    if not names:
        wanted = " or ".join(map(repr, campaign.outcomes))
        raise DataFileError(
            f"{path}: there is no column {wanted}; the columns are {', '.join(table.header)}."
        )
    rows: dict[int, dict[str, Measurement] | str] = {}
    voting = _without_ours(campaign, table)
    for outcome, column in names.items():
        inputs = campaign.space.names if is_box(campaign) else ()
        read = measured_numbers(voting, column, among=names.values(), ignore=inputs, mostly=False)
        notes += table.said(column, read)
        _, spread = told_errors(table, outcome, column)
        for position in range(len(table)):
            reason = read.reasons.get(position)
            before = rows.get(position, {})
            if reason is not None:
                if not reason.startswith("no value"):
                    rows[position] = f"{column}: {reason}"
            elif not isinstance(before, str):
                number, side = float(read.values[position]), read.censored[position]
                try:
                    error = read.errors.get(position, spread.get(position))
                    rows[position] = {**before, outcome: Measurement(number, error, side)}
                except InputError as error:
                    rows[position] = f"{column}: {error}"
    rejects = [Reject(path.name, r.line, r.reason, r.content) for r in table.rejected]
    return table, rows, Results(rejects=rejects, notes=notes)


def _without_ours(campaign: Campaign, table: DataTable) -> DataTable:
    """The table without what `ask` wrote, whose decimal points do not say how its user writes numbers."""
    if named(table, _TRIAL) is None:
        return table
    ours = {"expected", "std", *(campaign.space.names if is_box(campaign) else ())} - set(campaign.outcomes)
    return replace(table, columns={name: cells for name, cells in table.columns.items() if name not in ours})


def _outcome_columns(campaign: Campaign, table: DataTable) -> dict[str, str]:
    """Outcome → column, of those that there are."""
    found = {one: named(table, visible(one).strip()) for one in campaign.outcomes}
    names = {one: column for one, column in found.items() if column is not None}
    if not names and len(campaign.outcomes) == 1 and "value" in table.columns:
        return {campaign.outcomes[0]: "value"}
    return names


def _costs(campaign: Campaign, table: DataTable) -> dict[int, float]:
    name = None if _COST in campaign.outcomes else named(table, _COST)
    return {} if name is None else filled_numbers(table, name)


def _places(campaign: Campaign, table: DataTable) -> Sequence[Any]:
    if is_box(campaign):
        missing = [name for name in campaign.space.names if name not in table.columns]
        if missing:
            raise DataFileError(f"{table.path}: there is no column {', '.join(map(repr, missing))}.")
        return settings_of(campaign, table)
    reagents = named_places(table) if campaign.has_space and is_products(campaign) else None
    column = smiles_column(table)
    if column is None and reagents is None:
        reason = guess_columns(table).reasons["smiles"]
        raise DataFileError(f"{table.path}: no column looks like SMILES: {reason}.")
    texts: Sequence[Any] = [""] * len(table) if column is None else table.columns[column]
    if reagents is None:
        return texts
    return [
        text if place is None else list(place.x or ()) for text, place in zip(texts, reagents, strict=True)
    ]


def _unlike_before(trial: Trial, row: Mapping[str, Measurement], cost: float | None) -> None:
    """Refuse another value or cost than the trial has."""
    _not_withdrawn(trial)
    if trial.state == "measured" and cost is not None and trial.cost not in (None, cost):
        raise InputError(
            f"trial {trial.id} has the cost {trial.cost:g} already: sggp campaign amend corrects it"
        )
    for name, new in row.items():
        old = trial.values.get(name)
        if old is not None and old != new:
            raise InputError(
                f"trial {trial.id} has {name} {old} already: sggp campaign amend corrects it, attach adds a repeat"
            )
    if trial.state == "failed":
        raise InputError(
            f"trial {trial.id} is marked failed ({trial.reason}): sggp campaign amend gives it a value"
        )


def _not_withdrawn(trial: Trial) -> None:
    if trial.state == "withdrawn":
        raise InputError(
            f"trial {trial.id} was withdrawn ({trial.reason}): sggp campaign amend gives it a value again"
        )


def measured_before(campaign: Campaign, attached: Sequence[tuple[Any, dict[str, Measurement]]]) -> list[int]:
    """The trials that some of these measurements equal: of one molecule, or at the same settings, with equal values."""
    box = is_box(campaign)
    known = {
        (trial.x if box else trial.key, tuple(trial.values.items())): trial.id
        for trial in reversed(campaign.results())
        if trial.state == "measured"
    }
    if box:
        places: list[Any] = [campaign.space.place(place).x for place, _ in attached]
    else:  # places of reagents are found by their product only
        texts = [place for place, _ in attached if isinstance(place, str)]
        keys = iter(canonical(texts, campaign.standardise) if texts else [])
        places = [next(keys) if isinstance(place, str) else None for place, _ in attached]
    pairs = [(place, tuple(row.items())) for place, (_, row) in zip(places, attached, strict=True)]
    return [known[pair] for pair in pairs if pair in known]

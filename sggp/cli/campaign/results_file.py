"""Results from a user's file: which trial each row is of, and why a row cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sggp.bayesopt import Campaign, Trial
from sggp.bayesopt.binding import canonical
from sggp.bayesopt.trials import Measurement
from sggp.cli.campaign.naming import Names
from sggp.cli.campaign.opening import is_products
from sggp.cli.molecules.products import named_places
from sggp.cli.molecules.tables import Reject
from sggp.errors import DataFileError, InputError, MoleculeError, SggpError
from sggp.molecules import guess_columns, read_table
from sggp.molecules.files import DataTable
from sggp.molecules.files.numbers import is_missing, parse_whole

_TRIAL = ("trial", "id")
_REASON = "reason"
_COST = "cost"


@dataclass
class Results:
    """The rows of a file.

    Attributes:
        told: trial → outcomes by name. failed: trial → reason. costs: trial → cost.
        attached: (place, outcomes by name) of rows that name no trial.
        waiting: lines without a value. rejects: rows that cannot be used, and why.
        notes: what was decided in reading.
    """

    told: dict[int, dict[str, Measurement]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    costs: dict[int, float] = field(default_factory=dict)
    attached: list[tuple[Any, dict[str, Measurement]]] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_results(
    campaign: Campaign, path: Path, *, sheet: str | None = None, decimal: str | None = None
) -> Results:
    """The results in a file that `ask --out` wrote and someone filled in, or in any other with a column "trial".

    A row is refused, and the others are used, where its number or its value cannot be read, where the molecule that it
    names is not that of the trial, or where the trial has another value already.

    Raises:
        DataFileError: as `read_table`; no column of trials, or none of the outcomes.
    """
    table, values, found = _values(campaign, path, sheet, decimal)
    name = next((one for one in _TRIAL if one in table.columns), None)
    if name is None and campaign.settings["space"].get("kind") != "box":
        name, numbers, bad = _by_name(campaign, table)
    elif name is not None:
        numbers, bad = parse_whole(table.columns[name])
    if name is None:
        raise DataFileError(
            f"{path}: there is no column 'trial' (the numbers that `ask` printed); the columns are "
            f"{', '.join(table.header)}. For measurements of other things: sggp campaign attach --from."
        )
    known = {trial.id: trial for trial in campaign.results()}
    same = _Molecules(campaign, table)
    reasons = table.columns.get(_REASON, [""] * len(table))
    costs = _costs(table)
    for position in range(len(table)):
        number = numbers[position]
        try:
            if number is None:
                raise InputError(f"{name}: {bad[position]}")
            if number not in known:
                raise InputError(f"the campaign has no trial {number}")
            same.check(position, known[number])
            row = values.get(position, {})
            if isinstance(row, str):
                raise InputError(row)
            if row:
                _unlike_before(known[number], row)
                if number in found.told and found.told[number] != row:
                    raise InputError(f"trial {number} stands in an earlier line with another value")
                found.told[number] = row
            elif not is_missing(reasons[position]):
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


def _by_name(campaign: Campaign, table: DataTable) -> tuple[str | None, list[int | None], dict[int, str]]:
    """The trials of rows that name molecules or reagents: how these are called, numbers, and what is wrong."""
    reagents, smiles = named_places(table), smiles_column(table)
    if reagents is None and smiles is None:
        return None, [], {}
    names, numbers, bad = Names(campaign), list[int | None](), dict[int, str]()
    for position in range(len(table)):
        place = None if reagents is None else reagents[position]
        try:
            if place is None:
                text = "" if smiles is None else table.columns[smiles][position]
                numbers.append(names.of_smiles(text))
            else:
                numbers.append(names.of_reagents([str(part) for part in place.x or ()]))
        except InputError as error:
            numbers.append(None)
            bad[position] = str(error)
    return "smiles" if reagents is None else "reagents", numbers, bad


def check_batch(campaign: Campaign, store: str, out: Path | None) -> None:
    """Refuse to write over a file of results that the campaign does not have.

    Raises:
        DataFileError: a row of `out` has a value, or a reason, that was not told, or cannot be.
    """
    if out is None or not out.is_file():
        return
    try:
        found = read_results(campaign, out)
    except DataFileError:  # no table, or none of results
        return
    trials = {trial.id: trial for trial in campaign.results()}
    told = any(trials[number].values.get(name) is None for number, row in found.told.items() for name in row)
    failed = any(trials[number].state == "pending" for number in found.failed)
    if told or failed or found.rejects:
        raise DataFileError(
            f"cannot write {out}: it holds results that {store} does not have. First sggp campaign tell {store} "
            f"--from {out}, or choose another name."
        )


def smiles_column(table: DataTable) -> str | None:
    """The column of the molecules, which in a batch of products is not that of a reagent."""
    return "smiles" if "smiles" in table.columns else guess_columns(table).smiles


def read_attached(
    campaign: Campaign, path: Path, *, sheet: str | None = None, decimal: str | None = None
) -> Results:
    """Measurements of molecules, or of settings by the names of the inputs, that no trial asked for.

    Raises:
        DataFileError: as `read_table`; a column is missing.
    """
    table, values, found = _values(campaign, path, sheet, decimal)
    places = _places(campaign, table)
    for position in range(len(table)):
        try:
            row = values.get(position, {})
            if isinstance(row, str):
                raise InputError(row)
            if not row:
                found.waiting.append(table.line(position))
                continue
            campaign.check(places[position], row)
            found.attached.append((places[position], row))
        except SggpError as error:
            found.rejects.append(Reject(path.name, table.line(position), str(error), table.content(position)))
    return found


def _values(
    campaign: Campaign, path: Path, sheet: str | None, decimal: str | None
) -> tuple[DataTable, dict[int, dict[str, Measurement] | str], Results]:
    """The table; per row its outcomes, or why they cannot be read; and the rows that are no rows."""
    table = read_table(path, sheet=sheet, decimal=decimal)
    notes = list(table.notes)
    names = {outcome: outcome for outcome in campaign.outcomes if outcome in table.columns}
    if not names and len(campaign.outcomes) == 1 and "value" in table.columns:
        names = {campaign.outcomes[0]: "value"}
    if not names:
        wanted = " or ".join(map(repr, campaign.outcomes))
        raise DataFileError(
            f"{path}: there is no column {wanted}; the columns are {', '.join(table.header)}."
        )
    rows: dict[int, dict[str, Measurement] | str] = {}
    for outcome, column in names.items():
        read = table.numbers(column, mostly=False)
        notes += table.said(column, read)
        spread = _spread(table, outcome, column)
        for position in range(len(table)):
            reason = read.reasons.get(position)
            before = rows.get(position, {})
            if reason is not None:
                if not reason.startswith("no value"):
                    rows[position] = f"{column}: {reason}"
            elif not isinstance(before, str):
                one = Measurement(float(read.values[position]), spread.get(position), read.censored[position])
                rows[position] = {**before, outcome: one}
    rejects = [Reject(path.name, r.line, r.reason, r.content) for r in table.rejected]
    return table, rows, Results(rejects=rejects, notes=notes)


def _spread(table: DataTable, outcome: str, column: str) -> dict[int, float]:
    """Known standard errors: a column "noise_std", or that of the outcome with "_std"."""
    names = [f"{outcome}_std", f"{column}_std", "noise_std"]
    name = next((one for one in names if one in table.columns), None)
    return {} if name is None else _filled(table, name)


def _costs(table: DataTable) -> dict[int, float]:
    return _filled(table, _COST) if _COST in table.columns else {}


def _filled(table: DataTable, name: str) -> dict[int, float]:
    read = table.numbers(name, mostly=False)
    wrong = [i for i, reason in read.reasons.items() if not reason.startswith("no value")]
    if wrong:
        raise DataFileError(
            f"{table.path} line {table.line(wrong[0])}, column {name!r}: {read.reasons[wrong[0]]}; nothing was stored."
        )
    return {i: float(read.values[i]) for i in range(len(table)) if i not in read.reasons}


def _places(campaign: Campaign, table: DataTable) -> Sequence[Any]:
    if campaign.has_space and campaign.settings["space"].get("kind") == "box":
        names = campaign.space.names
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise DataFileError(f"{table.path}: there is no column {', '.join(map(repr, missing))}.")
        return [point_of({n: table.columns[n][i] for n in names}) for i in range(len(table))]
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


def point_of(cells: Mapping[str, str]) -> dict[str, Any]:
    """A point of a box from texts: numbers where they are numbers."""
    return {name: _number(cell) for name, cell in cells.items()}


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def _unlike_before(trial: Trial, row: Mapping[str, Measurement]) -> None:
    """Refuse another value than the one that the trial has."""
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


class _Molecules:
    """The molecules that a file names beside the trials, so that no value lands on another one."""

    def __init__(self, campaign: Campaign, table: DataTable) -> None:
        self.policy = campaign.standardise
        column = None if campaign.settings["space"].get("kind") == "box" else smiles_column(table)
        self.smiles = None if column is None else table.columns[column]

    def check(self, position: int, trial: Trial) -> None:
        """Refuse a row whose SMILES is not the molecule of the trial."""
        if self.smiles is None or trial.label is None or is_missing(self.smiles[position]):
            return
        text = self.smiles[position]
        if text == trial.label:
            return
        try:
            if canonical([text], self.policy) == canonical([trial.label], self.policy):
                return
        except MoleculeError as error:
            raise InputError(f"{text!r} is no SMILES; trial {trial.id} is {trial.label}") from error
        raise InputError(f"the row is of {text}, but trial {trial.id} is {trial.label}")

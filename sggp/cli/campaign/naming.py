"""Which trial is meant, by its number, SMILES, id in the library or reagents; and whether a row of a file is of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sggp.bayesopt import Campaign, Trial
from sggp.bayesopt.binding import canonical
from sggp.cli.campaign.listing import library_ids
from sggp.cli.molecules.products import named_places
from sggp.errors import DataFileError, InputError, MoleculeError
from sggp.molecules import guess_columns
from sggp.molecules.files import DataTable, is_missing

JOINT = " + "
_ROUNDED = 0.005
"""How far a setting in a file may be from the trial's, as a share of its range: spreadsheets round."""


class Names:
    """The trials of a campaign by what they are called.

    Args:
        campaign: the campaign, perhaps without its library.
        open_library: gives it with its library, which is read when an id is looked for.
    """

    def __init__(self, campaign: Campaign, open_library: Callable[[], Campaign] | None = None) -> None:
        self.policy, self._open = campaign.standardise, open_library
        self._keys: dict[str, set[str]] | None = None
        self.molecules = campaign.settings["space"].get("kind") != "box"
        self._of: dict[Any, list[Trial]] = defaultdict(list)
        for trial in campaign.results() if self.molecules else []:
            if trial.key is not None:
                self._of[trial.key].append(trial)
            if trial.x is not None and isinstance(trial.x[0], str):  # a reaction and the ids of reagents
                self._of[trial.x].append(trial)
                self._of[trial.x[1:]].append(trial)

    def number(self, text: str) -> int:
        """The number of the trial that a word of the command line means.

        Raises:
            InputError: none, or several.
        """
        try:
            return int(text)
        except ValueError as error:
            if not self.molecules:
                raise InputError(f"the first word must be the number of a trial, got {text!r}.") from error
        if JOINT in text:
            return self.of_reagents(text.split(JOINT))
        try:
            return self.of_smiles(text)
        except InputError:
            with suppress(DataFileError):  # of a library that is not there
                if text in self.read_ids():
                    return self.of_id(text)
            raise

    def of_reagents(self, ids: Sequence[str]) -> int:
        """The trial of these reagents, perhaps with the name of the reaction before them."""
        return self._one(tuple(part.strip() for part in ids), JOINT.join(ids))

    def of_smiles(self, text: str) -> int:
        """The trial of a molecule, or of a reaction's one reagent."""
        if (text,) in self._of:
            return self._one((text,), text)
        try:
            (key,) = canonical([text], self.policy)
        except MoleculeError as error:
            raise InputError(
                f"{text!r} is neither the number of a trial, nor a SMILES, nor an id of the library, nor the ids of "
                f"reagents with {JOINT!r} between them."
            ) from error
        return self._one(key, text)

    def of_id(self, text: str) -> int:
        """The trial of the molecule with an id in the library.

        Raises:
            InputError: none, or several. DataFileError: the library is not there.
        """
        keys = self.read_ids().get(text, set())
        if not keys:
            alike = [one for one in self.read_ids() if one.lstrip("0") == text.lstrip("0")]
            meant = f"; did you mean {alike[0]!r}?" if text and alike else "."
            raise InputError(f"no molecule of the library has the id {text!r}{meant}")
        if len(keys) > 1:
            raise InputError(
                f"{len(keys)} molecules of the library have the id {text!r}: name the trial, or its SMILES."
            )
        return self._one(next(iter(keys)), text)

    def read_ids(self) -> dict[str, set[str]]:
        """The keys of the molecules of each id of the library, which is opened for that.

        Raises:
            DataFileError: it is not there.
        """
        if self._keys is None:
            self._keys = defaultdict(set)
            campaign = None if self._open is None else self._open()
            ids = None if campaign is None else library_ids(campaign)
            if campaign is not None and ids is not None:
                names = list(map(str, ids))
                for name, key in zip(names, campaign.space.keys(range(len(names))), strict=True):  # type: ignore[attr-defined]
                    self._keys[name].add(key)
                self._keys.pop("", None)
        return self._keys

    def _one(self, name: Any, text: str) -> int:
        found = self._of.get(name, [])
        waiting = [trial for trial in found if trial.state == "pending"]
        chosen = waiting or found
        if not chosen:
            raise InputError(
                f"the campaign has no trial of {text}; sggp campaign attach takes what nobody asked for."
            )
        if len(chosen) > 1:
            numbers = ", ".join(str(trial.id) for trial in chosen)
            raise InputError(f"trials {numbers} are all of {text}: give the number of one.")
        return chosen[0].id


def is_box(campaign: Campaign) -> bool:
    """Whether the campaign chooses settings."""
    return campaign.settings["space"].get("kind") == "box"


def smiles_column(table: DataTable) -> str | None:
    """The column of the molecules, which in a batch of products is not that of a reagent."""
    if "smiles" in table.columns:
        return "smiles"
    others = {name: cells for name, cells in table.columns.items() if not name.startswith("reagent_")}
    return guess_columns(replace(table, columns=others)).smiles


def settings_of(campaign: Campaign, table: DataTable) -> list[dict[str, Any]]:
    """The settings that each row names: numbers in columns of numbers, else the texts of the cells."""
    rows: list[dict[str, Any]] = [{} for _ in range(len(table))]
    for name, column in campaign.space.columns.items():  # type: ignore[attr-defined]
        if name not in table.columns:
            continue
        cells: list[Any] = list(table.columns[name])
        if column.kind == "categorical":
            cells = [_number(cell) for cell in cells]
        else:
            read = table.numbers(name, mostly=False)
            cells = [
                cell if position in read.reasons else float(read.values[position])
                for position, cell in enumerate(cells)
            ]
        for row, cell in zip(rows, cells, strict=True):
            row[name] = cell
    return rows


def point_of(cells: Mapping[str, str]) -> dict[str, Any]:
    """A point of a box from texts: numbers where they are numbers."""
    return {name: _number(cell) for name, cell in cells.items()}


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


class Settings:
    """The settings that a file of a box names beside the trials, so that no value lands on other ones."""

    def __init__(self, campaign: Campaign, table: DataTable) -> None:
        self.columns = campaign.space.columns  # type: ignore[attr-defined]
        self.rows, self.table = settings_of(campaign, table), table

    def check(self, position: int, trial: Trial) -> None:
        """Refuse a row with other settings than the trial's; numbers may be rounded."""
        for (name, column), asked in zip(self.columns.items(), trial.x or (), strict=True):
            text = self.table.columns.get(name, [""] * len(self.table))[position]
            if is_missing(text) or _same_setting(column, self.rows[position][name], asked, text):
                continue
            shown = f"{asked:.6g}" if isinstance(asked, float) else asked
            raise InputError(
                f"the row has {name} = {text}, but trial {trial.id} is at {name} = {shown}; sggp campaign attach takes "
                "what was measured at other settings"
            )


def _same_setting(column: Any, given: Any, asked: Any, text: str) -> bool:
    if column.kind != "continuous":
        return given == asked or text == str(asked)
    if not isinstance(given, float) or (column.log and given <= 0):
        return False
    one, two = column.encode([given, asked])[:, 0].tolist()
    return abs(one - two) <= _ROUNDED


class Molecules:
    """The molecules that a file names beside the trials, so that no value lands on another one."""

    def __init__(self, campaign: Campaign, table: DataTable) -> None:
        self.policy = campaign.standardise
        column, self.reagents = smiles_column(table), named_places(table)
        self.smiles = None if column is None else table.columns[column]

    def check(self, position: int, trial: Trial) -> None:
        """Refuse a row whose SMILES, or whose reagents, are not those of the trial."""
        place = None if self.reagents is None else self.reagents[position]
        if (
            place is not None
            and trial.x
            and isinstance(trial.x[0], str)
            and place.x not in (trial.x, trial.x[1:])
        ):
            given, own = (JOINT.join(map(str, ids)) for ids in (place.x or (), trial.x[1:]))
            raise InputError(f"the row is of {given}, but trial {trial.id} is of {own}")
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

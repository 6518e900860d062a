"""Which trial is meant: by its number, its SMILES, or the ids of its reagents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sggp.bayesopt import Campaign, Trial
from sggp.bayesopt.binding import canonical
from sggp.errors import InputError, MoleculeError

JOINT = " + "


class Names:
    """The trials of a campaign by what they are called."""

    def __init__(self, campaign: Campaign) -> None:
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
        return self.of_smiles(text)

    def of_reagents(self, ids: Sequence[str]) -> int:
        """The trial of these reagents, perhaps with the name of the reaction before them."""
        return self._one(tuple(part.strip() for part in ids), JOINT.join(ids))

    def of_smiles(self, text: str) -> int:
        """The trial of a molecule, or of a reaction's one reagent."""
        if (text,) in self._of:
            return self._one((text,), text)
        try:
            (key,) = canonical([text])
        except MoleculeError as error:
            raise InputError(
                f"{text!r} is neither the number of a trial, nor a SMILES, nor the ids of reagents with {JOINT!r} "
                "between them."
            ) from error
        return self._one(key, text)

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

"""Trials and the space they are found in today: by what they are, whatever row they stand in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sggp.bayesopt.spaces.base import Space
from sggp.bayesopt.spaces.pool import Pool
from sggp.bayesopt.storage import Draft
from sggp.bayesopt.storage.journal import json_place, place_json
from sggp.bayesopt.trials import Place, Trial
from sggp.errors import Exhausted, InputError, MoleculeError

if TYPE_CHECKING:
    from sggp.molecules.standardise import Policy

_TRIES = 20
_SAME = 1e-6  # of the box's edges: points closer than this are one measurement


def takes_its_place(trial: Trial) -> bool:
    """Whether its place is not to be asked for again: not withdrawn, nor failed to be retried."""
    return trial.state != "withdrawn" and not (trial.state == "failed" and trial.policy == "retry")


class Binding:
    """A space, and where in it the places of a campaign are.

    A pool's rows are looked up by key, once each: O(log N), after all keys of the pool were read for the first that
    does not stand in the row where it stood before.

    Args:
        space: where the places are.
        policy: of `sggp.molecules.Standardiser`: which molecules are the same.

    Raises:
        InputError: a policy for what are no molecules.
    """

    def __init__(self, space: Space, policy: Policy = "none") -> None:
        self.space, self.policy = space, policy
        if policy != "none":
            from sggp.molecules.standardise import Standardiser

            if not isinstance(space, Pool):
                raise InputError(
                    "only molecules can be standardised: a box has none, and products of reactions stay as made."
                )
            self.space = space.standardised(Standardiser(policy))
        self.of_rows = hasattr(space, "find")
        self._rows: dict[str, int] = {}

    # finding ------------------------------------------------------------------------------------------------------

    def bind(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials with the rows in which they are now; None where the pool does not hold them."""
        if not self.of_rows:
            return list(trials)
        self._find(trials)
        return [replace(t, index=None if (row := self._row(t)) < 0 else row) for t in trials]

    def _row(self, trial: Trial) -> int:
        if trial.key is None:
            return -1 if trial.index is None else trial.index
        return self._rows[trial.key]

    def _find(self, trials: Sequence[Trial]) -> None:
        new = {t.key: t.index for t in trials if t.key is not None and t.key not in self._rows}
        space: Any = self.space
        there = {key: row for key, row in new.items() if row is not None and 0 <= row < len(space)}
        for (key, row), now in zip(there.items(), space.keys(list(there.values())), strict=True):
            if key == now:
                self._rows[key] = row
        moved = [key for key in new if key not in self._rows]
        if moved and hasattr(space, "recall"):
            sought = set(moved)
            space.recall([trial for trial in trials if trial.x and trial.key in sought])
        if moved:
            self._rows.update(zip(moved, space.find(moved).tolist(), strict=True))
            self._find_rewritten([key for key in moved if self._rows[key] < 0])

    def _find_rewritten(self, keys: Sequence[str]) -> None:
        """Look up molecules whose canonical SMILES another version of RDKit, or of sggp, wrote."""
        space: Any = self.space
        for key in keys if self.molecules else ():
            with suppress(MoleculeError):
                (now,) = canonical([key], self.policy)
                if now != key:
                    self._rows[key] = int(space.find([now])[0])

    def identify(self, trials: Sequence[Trial], stored: dict[str, Any]) -> list[Draft]:
        """What the trials of an old file are, which are known by row and label only.

        Raises:
            InputError: there are rows without labels, and the pool is not the one that the file describes.
        """
        drafts = []
        for trial in trials:
            if not self.of_rows or trial.key is not None:
                continue
            if trial.label is None and trial.index is not None and self.space.describe() != stored:
                raise InputError(
                    "this campaign was begun by an older sggp, which knew its trials by row only, and the pool is "
                    f"another one now: it was {stored}, given: {self.space.describe()}. Open it once with the pool as "
                    "it was; from then on rows may move."
                )
            place = self._identity(trial)
            row = trial.index if place.index is None else place.index
            known = {"key": place.key, "index": row, "label": trial.label or place.label}
            if place.key is not None:
                drafts.append(Draft("identified", trial.id, known))
        return drafts

    def _identity(self, trial: Trial) -> Place:
        space: Any = self.space
        if trial.index is None:
            return self.place(Place(x=trial.x, label=trial.label))
        same_row = trial.index < len(space) and (
            trial.label is None or space.label(trial.index) == trial.label
        )
        return self.place(trial.index if same_row else trial.label)

    # what users name ----------------------------------------------------------------------------------------------

    def place(self, x: Any) -> Place:
        """The place that a user names: as `Space.place`, and for a pool of molecules also any SMILES.

        A molecule that the pool does not hold is kept as its SMILES; its features are computed when they are needed.
        One that it holds in another form (`policy`) is in that row, under the SMILES given.
        """
        if not self.of_rows:
            return self.space.place(x)
        text = x if isinstance(x, str) else x.label if isinstance(x, Place) else None
        if text is None or not self.molecules:
            return self.space.place(x)
        return self._molecule(text)

    def _molecule(self, text: str) -> Place:
        try:
            (key,) = canonical([text], self.policy)
        except MoleculeError:
            return self.space.place(text)  # a name of a row, or refused there
        row = int(self.space.find([key])[0])  # type: ignore[attr-defined]
        place = Place(label=text, key=key) if row < 0 else self.space.place(row)
        return replace(place, label=text) if self.other_form(text, row) else place

    def other_form(self, smiles: str, row: int) -> bool:
        """Whether a molecule is another form of the one in a row, and not that itself."""
        table = getattr(self.space, "table", None)
        return row >= 0 and self.policy != "none" and canonical([smiles])[0] != str(table.canonical[row])  # type: ignore[union-attr]

    @property
    def molecules(self) -> bool:
        """Whether the pool can compute the features of any SMILES."""
        table = getattr(self.space, "table", None)
        return getattr(table, "canonical", None) is not None and bool(getattr(table, "settings", None))

    # the model ----------------------------------------------------------------------------------------------------

    def usable(self, trial: Trial) -> bool:
        """Whether the model can see this trial: a row, features of the right width, or a SMILES to compute them of."""
        if not self.of_rows or trial.index is not None:
            return True
        if trial.x is not None:
            return len(trial.x) == self.space.rows([0]).shape[1]  # type: ignore[attr-defined]
        return self.molecules and trial.label is not None

    def features(self, trials: Sequence[Trial]) -> Tensor:
        """(n, d) inputs of the model at these trials, all of them usable."""
        bare = [i for i, t in enumerate(trials) if self.of_rows and t.index is None and t.x is None]
        if not bare:
            return self.space.features(trials)
        from sggp.molecules.table import FingerprintTable

        space: Any = self.space
        texts = [str(trials[i].label if self.policy == "none" else trials[i].key) for i in bare]
        found = FingerprintTable.from_smiles(texts, space.table.fingerprinter())[:]
        out = found.new_empty(len(trials), found.shape[1])
        out[bare] = found
        rest = sorted(set(range(len(trials))) - set(bare))
        if rest:
            out[rest] = self.space.features([trials[i] for i in rest]).to(out.dtype)
        return out

    # what is not asked again --------------------------------------------------------------------------------------

    def taken(self, trials: Iterable[Trial]) -> Tensor:
        """The rows of a pool, or the points of a box (k, D) for the model, that are not to be asked for."""
        return self.space.taken([trial for trial in trials if takes_its_place(trial)])

    def fresh(self, places: Sequence[Place], known: Iterable[Trial | Place]) -> list[bool]:
        """Which of the places are neither known nor the same as one before them."""
        known = [p for p in known if not isinstance(p, Trial) or takes_its_place(p)]
        if self.of_rows:
            seen, out = {p.key for p in known}, []
            for place in places:
                out.append(place.key not in seen)
                seen.add(place.key)
            return out
        points = self.space.features([p for p in (*known, *places) if p.x])  # type: ignore[misc]
        before, new = points[: len(points) - len(places)], points[len(points) - len(places) :]
        out = []
        for i, point in enumerate(new):
            others = torch.cat([before, new[:i]])
            out.append(not len(others) or bool((others - point).abs().amax(1).min() > _SAME))
        return out


def filled(
    binding: Binding,
    settings: dict[str, Any],
    q: int,
    found: Sequence[dict[str, Any]],
    trials: Sequence[Trial],
    generator: torch.Generator,
) -> list[dict[str, Any]]:
    """The data of "asked" events, made up to q with places that need no model and are not known.

    Raises:
        Exhausted: there are not so many.
    """
    why = "spread out: the rule's choice was known already" if found else "spread out: no model yet"
    shown: list[Any] = [t if takes_its_place(t) else replace(t, index=None) for t in trials]
    shown += [json_place(data) for data in found]
    out, seed = list(found), int(settings["seed"])
    for _ in range(_TRIES):
        if len(out) >= q:
            return out[:q]
        try:
            more = binding.space.start(q - len(out), shown, seed=seed, generator=generator)
        except Exhausted:
            if not out:
                raise
            break
        fresh = binding.fresh(more, shown)
        out += [{**place_json(place), "why": why} for place, new in zip(more, fresh, strict=True) if new]
        shown += more
    raise Exhausted(f"only {len(out)} points are left that were not asked for: ask for fewer than {q}.")


def canonical(smiles: Sequence[str], policy: Policy = "none") -> list[str]:
    """Canonical SMILES, of the parents by a policy.

    Raises:
        MoleculeError: one of them cannot be parsed. MissingExtra: RDKit is not installed.
    """
    from sggp.molecules.properties import property_of_each
    from sggp.molecules.standardise import Standardiser

    found = [str(one) for one in property_of_each(list(smiles), "canonical SMILES")]
    return Standardiser(policy).parents(found)

"""The trials of a campaign as they are stored: read, reported, corrected and taken back, without any model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sggp.bayesopt.binding import Binding, canonical
from sggp.bayesopt.budget import spent
from sggp.bayesopt.given import cost_json, json_dict, pairs, reason, text, trial_id
from sggp.bayesopt.outcomes.define import Outcomes
from sggp.bayesopt.outcomes.results import Front, pareto, ranked
from sggp.bayesopt.spaces.base import Space
from sggp.bayesopt.storage import Draft, Event, Storage
from sggp.bayesopt.storage.journal import outcome_names, place_json, values_json
from sggp.bayesopt.storage.transfer import write_journal
from sggp.bayesopt.trials import POLICIES, Measurement, Place, Trial
from sggp.checks import one_of, whole_number
from sggp.errors import InputError

if TYPE_CHECKING:
    from sggp.molecules.standardise import ParentMatch, Policy


class Record:
    """What `Campaign` can do without its library: it is a part of it, and not made by itself."""

    def __init__(self, store: Storage, binding: Binding | None, meta: dict[str, Any]) -> None:
        self.store, self._binding, self._meta = store, binding, meta

    # reading ------------------------------------------------------------------------------------------------------

    @property
    def space(self) -> Space:
        """Where measurements are chosen.

        Raises:
            InputError: the campaign was opened without its pool.
        """
        return self._bound.space

    @property
    def has_space(self) -> bool:
        """Whether the space is there, so that `ask` and `model` work."""
        return self._binding is not None

    @property
    def maximize(self) -> bool:
        """Whether larger values of the first outcome are better."""
        return bool(self._meta["maximize"])

    @property
    def outcomes(self) -> list[str]:
        """The names of what is measured; the first is the one that `maximize` is about."""
        return outcome_names(self._meta)

    @property
    def wanted(self) -> Outcomes:
        """The objectives and constraints."""
        objectives = self._meta.get("objectives") or [{"name": "value", "maximize": self.maximize}]
        return Outcomes.from_json(
            {"objectives": objectives, "constraints": self._meta.get("constraints") or []}
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What is stored beside the trials: direction, objectives, constraints, space, seed, rule, budget, standardise,
        info.
        """
        return dict(self._meta)

    @property
    def info(self) -> dict[str, Any]:
        """The further settings: those stored at creation, with the changes since."""
        return dict(self._meta["info"])

    def set_info(self, changes: Mapping[str, Any], why: str | None = None) -> None:
        """Change some of `info` (JSON values), for instance where the library lies now; kept in the journal."""
        self._set({"info": json_dict(dict(changes))}, why)

    @property
    def standardise(self) -> Policy:
        """Which molecules are the same: "none", "parent" or "flat", see `sggp.molecules.Standardiser`."""
        return self._meta.get("standardise", "none")

    def parent_matches(self) -> list[ParentMatch]:
        """Attached trials that measured another form (salt, charge, ...) of the molecule that they count for.

        Each has the trial as `row`, and the row of the library as `of`: -1 where it has none, or was not read.
        """
        if self.standardise == "none":
            return []
        from sggp.molecules.standardise import ParentMatch, Standardiser

        form, out = Standardiser(self.standardise).form, []
        for trial in self.results():
            if trial.source != "attached" or trial.state == "withdrawn" or trial.label is None:
                continue
            row = -1 if trial.index is None or not self.has_space else trial.index
            there = str(trial.key) if row < 0 else str(self.space.table.canonical[row])  # type: ignore[attr-defined]
            if (own := canonical([trial.label])[0]) != there:
                out.append(ParentMatch(trial.id, row, str(trial.key), form(own), form(there)))
        return out

    @property
    def budget(self) -> float | None:
        """What the trials that are asked for may cost together; None is no limit."""
        return self._meta.get("budget")

    @property
    def spent(self) -> float:
        """What the trials cost: as told; one asked for without a cost counts as the mean of the told ones, or 1."""
        return spent(self.results())[0]

    @property
    def pending(self) -> list[Trial]:
        """Trials asked for that have no result yet, by id."""
        return [trial for trial in self.results() if trial.state == "pending"]

    def results(self) -> list[Trial]:
        """Every trial, by id."""
        return self._state()[1]

    def best(self, k: int = 1) -> list[Trial]:
        """The k best measured trials by the first objective, best first; ties in order of id.

        Trials that meet every constraint come before the others. A bound (">10") ranks as the value that it guarantees,
        one that guarantees nothing ("<0.1" where larger is better) last; print `sggp.bayesopt.outcomes.stated`, not
        the number.
        """
        return ranked(self.results(), self.wanted)[: whole_number(k, "k", least=0)]

    def pareto(self, reference: Sequence[float] | None = None) -> Front:
        """The measured trials that no other beats in every objective, and their hypervolume; see `Front`."""
        return pareto(self.results(), self.wanted, reference)

    def history(self, id: int | None = None) -> list[Event]:
        """The journal: who was asked, told, corrected or withdrawn when and why; of one trial, or of all.

        Raises:
            InputError: no such trial.
        """
        number = None if id is None else trial_id(id)
        found = self.store.events(number)
        if number is not None and not found:
            raise InputError(f"{self.store.name} has no trial {number}.")
        return found

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the whole campaign as JSON lines, one event each, whole or not at all; `import_` reads them."""
        write_journal(path, self.store.events())

    # telling ------------------------------------------------------------------------------------------------------

    def tell(self, id: int, value: Any, *, cost: float | None = None) -> Trial:
        """Report the measurement of a pending trial, written to disk before this returns.

        Args:
            id: number of the trial, an integer.
            value: a number, a text such as "7.1", ">10" or "<0.1" (beyond what can be measured), a pair
                (value, noise_std) or a `Measurement`; with several outcomes a dict of these by name. Outcomes of one
                trial may be told one after the other.
            cost: what the measurement cost.

        Raises:
            InputError: unknown trial, a value that is not finite, or another value is stored already.
        """
        return self._append([self._told(id, value, cost)])[0]

    def tell_many(
        self,
        results: Mapping[int, Any] | Iterable[tuple[int, Any]],
        *,
        failed: Mapping[int, str] | None = None,
        costs: Mapping[int, float] | None = None,
    ) -> list[Trial]:
        """Report several measurements, all or none of them.

        Args:
            results: (id, value) pairs, or a dict.
            failed: id → reason of trials that could not be measured, as `fail` stores them.
            costs: id → cost of some of both.

        Raises:
            InputError: as `tell`, or a cost of a trial that is in neither.
        """
        told = [(trial_id(id), value) for id, value in pairs(results, "(id, value)")]
        lost = [(trial_id(id), why) for id, why in pairs(failed or {}, "(id, reason)")]
        paid = {trial_id(id): cost for id, cost in pairs(costs or {}, "(id, cost)")}
        if strange := sorted(paid.keys() - {id for id, _ in (*told, *lost)}):
            raise InputError(
                f"costs are of trials {', '.join(map(str, strange))}, which are neither told nor failed here."
            )
        return self._append(
            [self._told(id, value, paid.get(id)) for id, value in told]
            + [self._failed(id, why, paid.get(id)) for id, why in lost]
        )

    def fail(
        self, id: int, reason: str = "", *, policy: str = "excluded", cost: float | None = None
    ) -> Trial:
        """Report that a trial could not be measured.

        Args:
            id: number of the trial.
            reason: why.
            policy: what that means. "excluded": its place is not asked for again. "retry": it may be asked for again
                (the trial stays failed). "imputed": as excluded, and the model takes it for a measurement as bad as the
                worst one made.
            cost: what it cost.

        Raises:
            InputError: unknown trial, another policy, or it was measured.
        """
        return self._append([self._failed(id, reason, cost, policy)])[0]

    def attach(self, x: Any, value: Any, *, cost: float | None = None) -> Trial:
        """Add a measurement made elsewhere (prior data, a repeat), written to disk before this returns.

        Args:
            x: box: a point (d,). Pool: a row index, a label (SMILES) the pool knows, or the features (d,) of a
                candidate outside the pool; for a pool of molecules any SMILES.
            value: the measurement, as for `tell`.
            cost: what it cost; attached measurements without one cost nothing here.

        Raises:
            InputError: the point does not belong to the space, or the value is not finite.
        """
        return self._append([self._attached(x, value, cost)])[0]

    def attach_many(
        self, measured: Iterable[tuple[Any, Any]], *, costs: Sequence[float | None] | None = None
    ) -> list[Trial]:
        """Add several measurements made elsewhere, (x, value) pairs, all or none.

        Args:
            measured: the pairs.
            costs: what each cost, None where that is not known.
        """
        given = pairs(measured, "(x, value)")
        if costs is not None and (isinstance(costs, Mapping | str) or not isinstance(costs, Iterable)):
            raise InputError(f"costs must be a list, one for each measurement, got {type(costs).__name__}.")
        paid = [None] * len(given) if costs is None else list(costs)
        if len(paid) != len(given):
            raise InputError(
                f"costs must hold one for each of the {len(given)} measurements, got {len(paid)}."
            )
        return self._append([self._attached(*pair, cost) for pair, cost in zip(given, paid, strict=True)])

    def check(self, x: Any, value: Any) -> None:
        """Refuse, as `attach` would, what cannot be attached; nothing is stored."""
        self._attached(x, value, None)

    def amend(self, id: int, value: Any, why: str, *, cost: float | None = None) -> Trial:
        """Correct the value of a trial, or give one to a trial that was failed or withdrawn; the journal keeps both.

        Args:
            id: number of the trial.
            value: as for `tell`; outcomes that are not named stay.
            why: the reason, not empty.
            cost: corrects the cost.

        Raises:
            InputError: unknown trial, no reason, or it is pending.
        """
        data = {"values": values_json(self._values(value)), **cost_json(cost)}
        return self._append([Draft("amended", trial_id(id), data, reason(why))])[0]

    def withdraw(self, id: int, why: str) -> Trial:
        """Take a trial back: a pending one is released, a value no longer counts; its place may be asked for again.

        Raises:
            InputError: unknown trial, or no reason.
        """
        return self._append([Draft("withdrawn", trial_id(id), reason=reason(why))])[0]

    # ----------------------------------------------------------------------------------------------------------------

    @property
    def _bound(self) -> Binding:
        if self._binding is None:
            raise InputError(
                f"{self.store.name} was opened without its pool, to read it and to report results: give the pool, "
                "Campaign(pool, storage), to ask or to use the model."
            )
        return self._binding

    def _state(self) -> tuple[int, list[Trial]]:
        last, trials = self.store.snapshot()
        return last, trials if self._binding is None else self._binding.bind(trials)

    def _append(self, drafts: Sequence[Draft], after: int | None = None) -> list[Trial]:
        stored = self.store.append(drafts, after=after)
        return stored if self._binding is None else self._binding.bind(stored)

    def _set(self, changes: dict[str, Any], why: str | None) -> None:
        self.store.append([Draft("settings", data=changes, reason=None if why is None else text(why, "why"))])
        self._meta = self.store.meta()

    def _told(self, id: Any, value: Any, cost: Any) -> Draft:
        data = {"values": values_json(self._values(value)), **cost_json(cost)}
        return Draft("told", trial_id(id), data)

    def _failed(self, id: Any, why: Any, cost: Any, policy: str = "excluded") -> Draft:
        data = {"policy": one_of(policy, "policy", POLICIES), **cost_json(cost)}
        return Draft("failed", trial_id(id), data, text(why or "", "reason"))

    def _attached(self, x: Any, value: Any, cost: Any) -> Draft:
        data = {"values": values_json(self._values(value)), **cost_json(cost)}
        return Draft("attached", data={**place_json(self._place(x)), **data})

    def _place(self, x: Any) -> Place:
        if self._binding is not None:
            return self._binding.place(x)
        if isinstance(x, str) and self._meta["space"].get("kind") in ("pool", "reactions"):
            return Place(label=x, key=canonical([x], self.standardise)[0])
        return self.space.place(x)  # refused in words

    def _values(self, given: Any) -> dict[str, Measurement]:
        """Outcomes by name, from one value or from several by name."""
        names = self.outcomes
        if not isinstance(given, Mapping):
            if len(names) > 1:
                raise InputError(
                    f"this campaign measures {', '.join(names)}: give a dict of them, got {given!r:.60}."
                )
            return {names[0]: Measurement.parse(given)}
        strange = [str(name) for name in given if name not in names]
        if strange or not given:
            raise InputError(
                f"outcomes must be among {', '.join(names)}; got {', '.join(strange) or 'none'}."
            )
        return {name: Measurement.parse(value) for name, value in given.items()}

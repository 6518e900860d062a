"""Ask for the next measurements, tell the results, survive being killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import gpytorch
import torch
from torch import Tensor

from sggp.bayesopt.begin import Begun, begin
from sggp.bayesopt.binding import filled
from sggp.bayesopt.budget import affordable
from sggp.bayesopt.evaluation import Evaluation
from sggp.bayesopt.given import instance, trial_id
from sggp.bayesopt.maximise import BoxSearch
from sggp.bayesopt.outcomes.beliefs import Beliefs, build_beliefs
from sggp.bayesopt.outcomes.define import Outcomes
from sggp.bayesopt.outcomes.results import standing
from sggp.bayesopt.outcomes.tables import BeliefSettings
from sggp.bayesopt.outlook import Outlook, outlook
from sggp.bayesopt.outlook.conditions import conditions_of
from sggp.bayesopt.record import Record
from sggp.bayesopt.rules import RULES, Rule, RuleLike, make_rule
from sggp.bayesopt.spaces.base import Space, check_room
from sggp.bayesopt.storage import Draft, Moved, Storage, open_storage
from sggp.bayesopt.storage.journal import json_place, place_json
from sggp.bayesopt.storage.transfer import read_journal
from sggp.bayesopt.surrogate import NO_SCALE, Surrogate
from sggp.bayesopt.trials import Trial
from sggp.checks import whole_number
from sggp.defaults import NUM_FEATURES
from sggp.errors import Exhausted, InputError
from sggp.random import as_generator, streams

_ANEW = 3  # times that a batch is proposed anew since another process asked; then only what is the same is
_ATTEMPTS = 100
_MANY = 50_000
_PATHS = 256


class Campaign(Record):
    """A measurement campaign whose whole state is one SQLite file, a team's database, or another `Storage`.

    `ask` returns after its trials are on disk and `tell` after the value is; a process killed at any moment
    and started again on the same file continues where it was and asks for the same points it would have asked
    for. Trials are bound to what they are (canonical SMILES, id, exact features, coordinates): the rows of a pool may
    be reordered, grow in number or vanish between two starts.

    Args:
        space: `Box` or `Pool`; of the same kind at every start, and a box with the same bounds. None opens a campaign
            that exists, to read it and to report results; a box is known from the file.
        storage: path of the SQLite file, created when absent; the URL of a database ("postgresql+psycopg://..."); or a
            `Storage` of another kind.
        maximize: whether larger is better: True, False, or a word such as "max" or "min". Required for a new file; for
            an existing one None takes the stored direction and the other direction is refused.
        objectives, constraints: what is measured and wanted (`Objective`, `Constraint`), in the place of `maximize`;
            kept in a new file.
        kernel: starting kernel of the model, in the coordinates of the unit cube for a box; None chooses
            Matern (real inputs), min-max Tanimoto (counts), or a learnt sum of kernels (a `FingerprintTable` of
            several parts).
        num_initial: measurements to collect before the model is used; None is 2 (d + 1) in a box and 10
            in a pool.
        num_features: random features of the prior draws.
        search: how hard to look in a box.
        seed: makes a new campaign reproducible; None draws one, which is stored.
        info: further settings to keep in a new file (JSON values), returned by `info`.
        rule: how a batch is chosen, a name in `sggp.bayesopt.rules.RULES` (stored) or a subclass of `Rule`, to be given
            at every start. None takes the stored one; in a new file that of `sggp.bayesopt.rules.default_rule`.
        standardise: which molecules are the same, by a policy of `sggp.molecules.Standardiser`, kept in a new file:
            "none" (None): equal canonical SMILES; "parent": all salts, solvates and charges of one are; "flat": stereo
            and tautomers too. A measured salt is then bound to its parent in the library, and of library rows of one
            parent only one is asked for; `parent_matches` says which.
        budget: what the trials that are asked for may cost together, see `spent`; kept, and changed when another one is
            given. `ask` gives fewer points, with a `BudgetWarning`, when it pays for no more; it refuses when for none.

    Raises:
        InputError: no direction for a new file, another direction or another space than the stored one, or a setting
            that cannot be used; no file is made then.
        DtypeError: an argument of another type.
        DataFileError: the file cannot be created, is damaged or is not a campaign.

    Warns:
        LibraryChanged: trials whose molecules the pool no longer holds; they keep their values and are never asked.
    """

    def __init__(
        self,
        space: Space | None,
        storage: str | os.PathLike[str] | Storage = "campaign.db",
        *,
        maximize: bool | str | None = None,
        objectives: Sequence[Any] | None = None,
        constraints: Sequence[Any] = (),
        kernel: gpytorch.kernels.Kernel | None = None,
        num_initial: int | None = None,
        num_features: int = NUM_FEATURES,
        search: BoxSearch | None = None,
        seed: int | None = None,
        info: dict[str, Any] | None = None,
        rule: RuleLike | None = None,
        budget: float | None = None,
        standardise: str | None = None,
    ) -> None:
        store = open_storage(storage)
        self._kernel = instance(kernel, gpytorch.kernels.Kernel, "kernel")
        self._num_features = whole_number(num_features, "num_features")
        self._search = instance(search, BoxSearch, "search")
        begun = Begun(maximize, objectives, constraints, num_initial, seed, info, rule, budget, standardise)
        binding, self._rule, meta = begin(space, store, begun)
        super().__init__(store, binding, meta)

    @classmethod
    def open(cls, storage: str | os.PathLike[str] | Storage, space: Space | None = None) -> Campaign:
        """A campaign that exists, to read it and to report results without its library.

        Raises:
            DataFileError: there is none.
        """
        return cls(space, storage)

    @classmethod
    def import_(cls, path: str | os.PathLike[str], storage: str | os.PathLike[str] | Storage) -> Campaign:
        """Take over what `export` wrote: into a new storage whole, into one of the same campaign what is new.

        All or nothing, and twice is once.

        Raises:
            DataFileError: the file is no export, was cut short or changed.
            InputError: the storage holds another campaign, or one that went on otherwise.
        """
        store = open_storage(storage)
        store.restore(read_journal(path))
        return cls.open(store)

    # asking -------------------------------------------------------------------------------------------------------

    def ask(self, q: int = 1) -> list[Trial]:
        """The next q points to measure, written to disk before this returns.

        Until `num_initial` measurements are in, points are drawn at random (a Sobol sequence in a box);
        afterwards the model is fitted to all measurements and the rule chooses. None is the same as one that was
        measured, is pending or failed, or within 1e-6 of it in a box: of this process, or of another that asks at the
        same time.

        Raises:
            InputError: q is no positive integer.
            Exhausted: fewer points are left, or the budget is spent.
        """
        q = whole_number(q, "q")
        for attempt in range(_ATTEMPTS):
            last, trials = self._state()
            count = affordable(q, trials, self.budget)
            generator = self._generator(trials)
            drafts = [Draft("asked", data=data) for data in self._propose(count, trials, generator)]
            stored = self._append_asked(drafts, last, len(trials), anew=attempt < _ANEW)
            if stored is not None:
                return stored
        raise InputError(f"other processes kept asking {self.store.name} for the same points; try again.")

    def repeat(self, id: int, count: int = 1) -> list[Trial]:
        """Ask for `count` more measurements of what a trial measured, as trials of their own (replicates).

        Raises:
            InputError: unknown trial.
        """
        number = trial_id(id)
        found = next((trial for trial in self.results() if trial.id == number), None)
        if found is None:
            raise InputError(f"{self.store.name} has no trial {number}; see results().")
        data = {**place_json(found.place), "why": f"replicate of trial {number}"}
        return self._append([Draft("asked", data=data)] * whole_number(count, "count"))

    def run(
        self,
        objective: Callable[[Trial], Any],
        *,
        executor: Executor | None = None,
        budget: int,
        batch_size: int = 1,
        timeout: float | None = None,
        retries: int = 0,
    ) -> list[Trial]:
        """Ask, evaluate and tell until `budget` trials have ended, the pending ones first.

        Several runs may go on together, of a campaign file on one machine, of a PostgreSQL database on any (each keeps
        a connection open): one that begins while another goes on leaves it the trials that are pending.

        With an executor up to `batch_size` evaluations run at once, and a new point is asked for as soon as one ends.
        Whatever stops this (a kill, Ctrl-C, a broken executor), trials without a result stay pending, and another call
        resumes them.

        Args:
            objective: called with a `Trial` (its `x` in a box, `smiles` or `index` in a pool); gives what `tell` takes.
                For a process pool it must be defined at the top of a module.
            executor: any `concurrent.futures.Executor`: a thread or process pool, Dask's ``client.get_executor()``,
                MPI's. None evaluates here, one after the other.
            budget: how many trials may end in this call; a campaign's own budget, or the end of a pool, stops earlier.
            batch_size: evaluations at once; without an executor, points asked for at once.
            timeout: seconds that one evaluation may run; then it is failed. Its worker is not stopped: it is busy until
                the objective returns. Other executors than Python's pools do not say when they begin: let `batch_size`
                be the number of their workers then.
            retries: further tries after an error or a timeout. The last one fails the trial, with the error as reason.

        Returns:
            The trials that ended, in this order.

        Raises:
            InputError, DtypeError: an argument that cannot be used. BrokenExecutor: workers died.

        Warns:
            NotSaved: a trial was ended elsewhere, by another process perhaps, while it was evaluated: that stays.
        """
        options = {"executor": executor, "budget": budget, "batch_size": batch_size}
        return Evaluation(self, objective, **options, timeout=timeout, retries=retries).run()  # type: ignore[arg-type]

    # the model ----------------------------------------------------------------------------------------------------

    def model(self, num_samples: int = 1, *, generator: torch.Generator | int | None = None) -> Surrogate:
        """The first objective's model, fitted to every measurement so far (box: in unit-cube coordinates)."""
        return self.beliefs(num_samples, generator=generator).surrogate

    def beliefs(self, num_samples: int = 1, *, generator: torch.Generator | int | None = None) -> Beliefs:
        """The models of every outcome, of failures, and what a rule chooses by; see docs/outcomes.md.

        Raises:
            InputError: an objective has no measurement yet.

        Warns:
            OutlyingValues: the models leave measured values out that cannot belong.
        """
        return self._beliefs(
            self.results(), whole_number(num_samples, "num_samples"), as_generator(generator)
        )

    def outlook(
        self,
        *,
        top: float | Sequence[float] = (0.01, 10),
        epsilon: float | Sequence[float] | None = None,
        batch_size: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | int | None = None,
    ) -> Outlook:
        """Is it worth going on? What the model says of the best there is, of what was found, and of the next batch.

        Of the first objective, without values that the model sets apart and bounds that guarantee nothing ("<5" where
        larger is better): their rows count as unmeasured. With constraints, of what meets all those that were measured
        at all; rows where one is unknown count as unmeasured, too. What failed does not count, and what is unmeasured
        where the model of failure lets it succeed. See `sggp.bayesopt.outlook.outlook` for what is asked, how it is
        calibrated and what it costs. Over a `Combinatorial` space it speaks of the products that searches looked at,
        and says so; where none was made since it was opened, one is.

        Args:
            top, epsilon: as there.
            batch_size: size of the next batch, which the rule chooses as `ask` would, but which is not asked for; None
                takes the trials that are pending, or as many as the last batch had.
            num_samples: paths; None takes 256, and 64 where a pool has more than 50,000 rows.
            generator: seed or generator; None draws as the campaign's seed and state say.

        Raises:
            InputError: nothing was measured in this space.
        """
        trials = self.results()
        root = self._generator(trials) if generator is None else as_generator(generator)
        draw, choose, look = streams(root, "outlook paths", "outlook batch", "outlook")
        usual = 64 if self._bound.of_rows and self.space.capacity > _MANY else _PATHS
        paths = usual if num_samples is None else whole_number(num_samples, "num_samples")
        beliefs = self._beliefs(trials, paths, draw)
        model, limits = beliefs.surrogate, self._limits(beliefs)
        done = [t for t in self._known(trials, beliefs) if standing(t, limits) is not None]
        where: Any = self.space.scaled
        rows = [-1 if t.index is None else t.index for t in done]
        places = torch.tensor(rows) if self._bound.of_rows else self._bound.features(done)
        batch = self._next(trials, batch_size, choose)
        failed = self._bound.taken([t for t in trials if t.state == "failed"]) if self._bound.of_rows else ()
        size = len(where) if hasattr(where, "looked_at") else None
        if size is not None:
            if where.last_search is None:
                self._next(trials, 1, choose)
            where, (places, failed, *rest) = where.looked_at(
                places, failed, *([] if batch is None else [batch])
            )
            batch = rest[0] if rest else None
        found = outlook(
            model,
            where,
            places,
            torch.tensor([t.value for t in done], dtype=torch.float64),
            maximize=self.maximize,
            top=top,
            epsilon=epsilon,
            batch=batch,
            search=self._search,
            conditions=conditions_of(beliefs, limits.constraints),
            met=[standing(t, limits) for t in done],
            failed=failed,
            generator=look,
        )
        return found if size is None else found.of_part(size)

    def _limits(self, beliefs: Beliefs) -> Outcomes:
        """What is wanted, of the constraints those that something was measured of."""
        return replace(
            self.wanted, constraints=tuple(c for c in self.wanted.constraints if c.name in beliefs.models)
        )

    def _known(self, trials: Sequence[Trial], beliefs: Beliefs) -> list[Trial]:
        """The trials that say how good they are at least: none that is set apart, no "<5" where more is better."""
        apart = {one.trial for one in beliefs.apart if one.outcome == self.outcomes[0]}
        nothing = "below" if self.maximize else "above"
        return [
            t
            for t in trials
            if t.value is not None and t.id not in apart and self._bound.usable(t)
            if t.measurement is None or t.measurement.censored != nothing
        ]

    def _next(self, trials: Sequence[Trial], count: int | None, generator: torch.Generator) -> Tensor | None:
        """The batch that is measured now, or would be next, in the model's coordinates; None where there is no room."""
        waiting = [
            t for t in trials if t.state == "pending" and (t.index is not None or not self._bound.of_rows)
        ]
        if count is None and waiting:
            if self._bound.of_rows:
                return torch.tensor([trial.index for trial in waiting])
            return self._bound.features(waiting)
        last = max((trial.batch for trial in trials), default=0)
        usual = sum(trial.batch == last for trial in trials) if last else 1
        taken = self._bound.taken(trials)
        room = self.space.capacity - len(taken)
        q = int(min(room, usual if count is None else whole_number(count, "batch_size")))
        if q < 1:
            return None
        beliefs = self._beliefs(trials, self._made(q, self.maximize).num_samples, generator)
        rule = self._made(q, beliefs.maximize)
        with suppress(Exhausted):  # only a search tells how many products there are
            return rule.suggest(beliefs.posterior, exclude=taken, generator=generator)
        return None

    def _beliefs(self, trials: Sequence[Trial], num_samples: int, generator: torch.Generator) -> Beliefs:
        ended = [t for t in trials if t.state in ("measured", "failed") and self._bound.usable(t)]
        if not any(trial.state == "measured" for trial in ended):
            raise InputError(f"{self.store.name} has no measurement yet: tell or attach some first.")
        kernel = getattr(self.space, "parts", None) if self._kernel is None else self._kernel
        settings = BeliefSettings(num_samples, kernel, self._num_features, blocks=self.space.blocks)
        return build_beliefs(self._bound.features(ended), self.wanted, ended, settings, generator)

    def _propose(self, q: int, trials: Sequence[Trial], generator: torch.Generator) -> list[dict[str, Any]]:
        """q new places with what the model expects there and why, as data of "asked" events."""
        taken = self._bound.taken(trials)
        check_room(self.space, q, len(taken))
        measured = sum(trial.state == "measured" for trial in trials)
        told = {name for trial in trials for name in trial.values}
        unknown = any(one.name not in told for one in self.wanted.objectives)  # told one after the other
        if measured < int(self._meta["num_initial"]) or unknown:
            return filled(self._bound, self._meta, q, [], trials, generator)
        beliefs = self._beliefs(trials, self._made(q, self.maximize).num_samples, generator)
        rule = self._made(q, beliefs.maximize)
        choice = rule.choose(beliefs.posterior, exclude=taken, generator=generator, scaling=beliefs.scaling)
        places = self.space.places(choice.places)
        mean, std = beliefs.surrogate.predict(self._bound.features(places))  # type: ignore[arg-type]
        found = [
            {**place_json(place), "expected": [one, spread], "why": why}
            for place, one, spread, why in zip(places, mean.tolist(), std.tolist(), choice.why, strict=True)
        ]
        if not beliefs.surrogate.has_scale:  # an expectation whose std nothing tells is none
            plain = beliefs.posterior is beliefs.surrogate.posterior and type(rule) in RULES.values()
            found = [{**data, "expected": None, **({"why": NO_SCALE} if plain else {})} for data in found]
        kept = [data for data, new in zip(found, self._bound.fresh(places, trials), strict=True) if new]
        return filled(self._bound, self._meta, q, kept, trials, generator)

    def _made(self, q: int, maximize: bool) -> Rule:
        return make_rule(self._rule, self.space.scaled, q, maximize=maximize, search=self._search)

    def _generator(self, trials: Sequence[Trial]) -> torch.Generator:
        ended = sum(trial.state != "pending" for trial in trials)
        root = as_generator(int(self._meta["seed"]))
        return streams(root, f"ask after {len(trials)} trials, {ended} told")[0]

    def _append_asked(
        self, drafts: Sequence[Draft], last: int, count: int, *, anew: bool
    ) -> list[Trial] | None:
        """The new trials, or None where another process took such a place since event `last`, at `count` trials."""
        places = [json_place(draft.data) for draft in drafts]
        for _ in range(_ATTEMPTS):
            try:
                return self._append(drafts, last)
            except Moved:
                last, trials = self._state()
                new = trials[count:]
                if (anew and new) or not all(self._bound.fresh(places, trials)):
                    return None
        return None

"""Ask for the next measurements, tell the results, survive being killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gpytorch
import torch

from sggp.bayesopt.maximise import BoxSearch
from sggp.bayesopt.rules import RuleLike, check_rule, make_rule
from sggp.bayesopt.space import Space, check_room, check_space
from sggp.bayesopt.storage import DuplicateAsk, Result, SQLiteStorage, Storage
from sggp.bayesopt.surrogate import Surrogate, fit_surrogate
from sggp.bayesopt.trials import Place, Trial
from sggp.checks import finite_number, flag, whole_number
from sggp.defaults import NUM_FEATURES
from sggp.errors import DtypeError, InputError
from sggp.random import as_generator, draw_seed, streams

_ATTEMPTS = 5


class Campaign:
    """A measurement campaign whose whole state is one SQLite file, or another `Storage`.

    `ask` returns after its trials are on disk and `tell` after the value is; a process killed at any moment
    and started again on the same file continues where it was and asks for the same points it would have asked
    for.

    Args:
        space: `Box` or `Pool`, the same at every start (it is checked).
        storage: path of the SQLite file, created when absent; or a `Storage` of another kind.
        maximize: whether larger is better. Required for a new file; for an existing one None takes the stored
            direction and the other direction is refused.
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
            at every start. None takes the stored one, Thompson sampling in a new file.

    Raises:
        InputError: no direction for a new file, another direction or another space than the stored one, or a setting
            that cannot be used; no file is made then.
        DtypeError: an argument of another type.
        DataFileError: the file cannot be created or is not a campaign.
    """

    def __init__(
        self,
        space: Space,
        storage: str | os.PathLike[str] | Storage = "campaign.db",
        *,
        maximize: bool | None = None,
        kernel: gpytorch.kernels.Kernel | None = None,
        num_initial: int | None = None,
        num_features: int = NUM_FEATURES,
        search: BoxSearch | None = None,
        seed: int | None = None,
        info: dict[str, Any] | None = None,
        rule: RuleLike | None = None,
    ) -> None:
        self.space = check_space(space)
        self.store = _storage(storage)
        self._kernel = _instance(kernel, gpytorch.kernels.Kernel, "kernel")
        self._num_features = whole_number(num_features, "num_features")
        self._search = _instance(search, BoxSearch, "search")
        asked = None if rule is None else check_rule(rule)
        settings = {
            "maximize": None if maximize is None else flag(maximize, "maximize"),
            "space": space.describe(),
            "seed": draw_seed(as_generator(None)) if seed is None else whole_number(seed, "seed", least=None),
            "num_initial": whole_number(
                space.num_initial if num_initial is None else num_initial, "num_initial"
            ),
            "info": _json(info or {}),
            "rule": asked if isinstance(asked, str) else "thompson" if asked is None else None,
        }
        if not self.store.exists:
            if maximize is None:
                raise InputError("the direction is never guessed: pass maximize=True or maximize=False.")
            self.store.create(settings)
        self._meta = self.store.meta()
        self._check(maximize)
        stored = self._meta.get("rule", "thompson")  # files of the first version have none
        if asked is None and stored is None:
            raise InputError(f"{self.store.name} was started with a rule of its own: pass it as rule=.")
        self._rule: RuleLike = stored if asked is None else asked

    def _check(self, maximize: bool | None) -> None:
        if maximize is not None and bool(maximize) != self.maximize:
            word = "maximised" if self.maximize else "minimised"
            raise InputError(f"{self.store.name} is to be {word}; take another file for the reverse.")
        here = self.space.describe()
        if here != self._meta["space"]:
            raise InputError(f"{self.store.name} is of another space: {self._meta['space']}, given: {here}.")

    @property
    def maximize(self) -> bool:
        """Whether larger is better."""
        return bool(self._meta["maximize"])

    @property
    def info(self) -> dict[str, Any]:
        """The further settings stored at creation."""
        return dict(self._meta["info"])

    @property
    def pending(self) -> list[Trial]:
        """Trials asked for that have no result yet, by id."""
        return [trial for trial in self.results() if trial.state == "pending"]

    def results(self) -> list[Trial]:
        """Every trial, by id."""
        return self.store.trials()

    def best(self, k: int = 1) -> list[Trial]:
        """The k best measured trials, best first; ties in order of id."""
        count = whole_number(k, "k", least=0)
        sign = -1.0 if self.maximize else 1.0
        measured = [(sign * t.value, t.id, t) for t in self.results() if t.value is not None]
        return [trial for _, _, trial in sorted(measured, key=lambda item: item[:2])[:count]]

    def ask(self, q: int = 1) -> list[Trial]:
        """The next q points to measure, written to disk before this returns.

        Until `num_initial` measurements are in, points are drawn at random (a Sobol sequence in a box);
        afterwards the model is fitted to all measurements and the rule chooses (by Thompson sampling each point
        maximises its own posterior sample).

        Raises:
            InputError: q is no positive integer, or fewer pool rows are left.
        """
        q = whole_number(q, "q")
        for _ in range(_ATTEMPTS):
            trials = self.results()
            ended = sum(trial.state != "pending" for trial in trials)
            root = as_generator(int(self._meta["seed"]))
            (generator,) = streams(root, f"ask after {len(trials)} trials, {ended} told")
            try:
                return self.store.add_asked(self._propose(q, trials, generator))
            except DuplicateAsk:
                continue
        raise InputError(f"other processes kept asking {self.store.name} for the same rows; try again.")

    def tell(self, id: int, value: float) -> Trial:
        """Report the measurement of a pending trial, written to disk before this returns.

        Raises:
            InputError: unknown trial, a value that is not finite, or another value is stored already.
        """
        return self.tell_many([(id, value)])[0]

    def tell_many(self, results: Iterable[tuple[int, float]] | Mapping[int, float]) -> list[Trial]:
        """Report several measurements, (id, value) pairs or a mapping, all or none."""
        return self.store.finish(
            [Result(_id(id), _value(value)) for id, value in _pairs(results, "(id, value)")]
        )

    def fail(self, id: int, reason: str = "") -> Trial:
        """Report that a trial could not be measured; its pool row is not asked for again.

        Raises:
            InputError: unknown trial, or it was measured.
        """
        return self.store.finish([Result(_id(id), None, "" if reason is None else str(reason))])[0]

    def attach(self, x: Any, value: float) -> Trial:
        """Add a measurement made elsewhere (prior data, a repeat), written to disk before this returns.

        Args:
            x: box: a point (d,). Pool: a row index, a label (SMILES) the pool knows, or the features (d,) of a
                candidate outside the pool.
            value: the measurement.

        Raises:
            InputError: the point does not belong to the space, or the value is not finite.
        """
        return self.attach_many([(x, value)])[0]

    def attach_many(self, measured: Iterable[tuple[Any, float]]) -> list[Trial]:
        """Add several measurements made elsewhere, (x, value) pairs, all or none."""
        pairs = _pairs(measured, "(x, value)")
        return self.store.add_measured([(self.space.place(x), _value(value)) for x, value in pairs])

    def model(self, num_samples: int = 1, *, generator: torch.Generator | int | None = None) -> Surrogate:
        """The model fitted to every measurement so far (box: in unit-cube coordinates)."""
        return self._model(self.results(), whole_number(num_samples, "num_samples"), as_generator(generator))

    def _model(self, trials: Sequence[Trial], num_samples: int, generator: torch.Generator) -> Surrogate:
        measured = [trial for trial in trials if trial.value is not None]
        if not measured:
            raise InputError(f"{self.store.name} has no measurement yet: tell or attach some first.")
        values = torch.tensor([trial.value for trial in measured], dtype=torch.float64)
        return fit_surrogate(
            self.space.features(measured),
            values,
            num_samples=num_samples,
            kernel=getattr(self.space, "parts", None) if self._kernel is None else self._kernel,
            num_features=self._num_features,
            generator=generator,
        )

    def _propose(self, q: int, trials: Sequence[Trial], generator: torch.Generator) -> list[Place]:
        taken = sorted({trial.index for trial in trials if trial.index is not None})
        check_room(self.space, q, len(taken))
        measured = sum(trial.state == "measured" for trial in trials)
        if measured < int(self._meta["num_initial"]):
            return self.space.start(q, trials, seed=int(self._meta["seed"]), generator=generator)
        rule = make_rule(self._rule, self.space.scaled, q, maximize=self.maximize, search=self._search)
        model = self._model(trials, rule.num_samples, generator)
        return self.space.places(rule.suggest(model.posterior, exclude=taken, generator=generator))


def _storage(storage: Any) -> Storage:
    if isinstance(storage, str | os.PathLike):
        return SQLiteStorage(storage)
    if isinstance(storage, type) or not isinstance(storage, Storage):
        raise DtypeError(f"storage must be a path or a Storage, got {type(storage).__name__}.")
    return storage


def _instance(value: Any, kind: type, name: str) -> Any:
    if value is not None and not isinstance(value, kind):
        raise DtypeError(f"{name} must be a {kind.__name__} or None, got {type(value).__name__}.")
    return value


def _json(info: Any) -> dict[str, Any]:
    if not isinstance(info, dict):
        raise DtypeError(f"info must be a dict of JSON values, got {type(info).__name__}.")
    try:
        return json.loads(json.dumps(info))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"info must hold JSON values only, to be stored: {error}.") from error


def _pairs(items: Any, expected: str) -> list[tuple[Any, Any]]:
    try:
        return [(first, second) for first, second in (items.items() if isinstance(items, Mapping) else items)]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected {expected} pairs, got {type(items).__name__}: {error}.") from error


def _id(value: Any) -> int:
    return whole_number(value, "the number of a trial", least=None)


def _value(value: Any) -> float:
    return finite_number(value, "a measurement", "use fail(id, reason) for failures")

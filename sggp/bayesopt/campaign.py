"""Ask for the next measurements, tell the results, survive being killed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gpytorch
import torch
from torch import Tensor

from sggp.bayesopt.maximise import BoxSearch
from sggp.bayesopt.space import Box, Pool, Space
from sggp.bayesopt.storage import DuplicateAsk, NewTrial, Trial, TrialStore
from sggp.bayesopt.surrogate import Surrogate, fit_surrogate
from sggp.bayesopt.thompson import ThompsonSampling
from sggp.defaults import NUM_FEATURES
from sggp.errors import InputError, ShapeError
from sggp.random import as_generator, draw_seed, streams

__all__ = ["Campaign", "Trial"]

_ATTEMPTS = 5
_POOL_INITIAL = 10


class Campaign:
    """A measurement campaign whose whole state is one SQLite file.

    `ask` returns after its trials are on disk and `tell` after the value is; a process killed at any moment
    and started again on the same file continues where it was and asks for the same points it would have asked
    for.

    Args:
        space: `Box` or `Pool`, the same at every start (it is checked).
        storage: path of the SQLite file; created when absent.
        maximize: whether larger is better. Required for a new file; for an existing one None takes the stored
            direction and the other direction is refused.
        kernel: starting kernel of the model, in the coordinates of the unit cube for a box; None chooses
            Matern-5/2 (real inputs) or min-max Tanimoto (counts).
        num_initial: measurements to collect before the model is used; None is 2 (d + 1) in a box and 10
            in a pool.
        num_features: random features of the prior draws.
        search: how hard to look in a box.
        seed: makes a new campaign reproducible; None draws one, which is stored.
        info: further settings to keep in a new file (JSON values), returned by `info`.

    Raises:
        InputError: no direction for a new file, another direction or another space than the stored one.
        DataFileError: the file cannot be created or is not a campaign.
    """

    def __init__(
        self,
        space: Space,
        storage: str | Path = "campaign.db",
        *,
        maximize: bool | None = None,
        kernel: gpytorch.kernels.Kernel | None = None,
        num_initial: int | None = None,
        num_features: int = NUM_FEATURES,
        search: BoxSearch | None = None,
        seed: int | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.space = space
        self.store = TrialStore(storage)
        self._kernel = kernel
        self._num_features = num_features
        self._search = search
        if not self.store.exists:
            if maximize is None:
                raise InputError(
                    "the direction is never guessed: pass maximize=True or maximize=False for a new campaign."
                )
            drawn = int(seed) if seed is not None else draw_seed(as_generator(None))
            self.store.create(
                {
                    "maximize": bool(maximize),
                    "space": space.describe(),
                    "seed": drawn,
                    "num_initial": self._initial(num_initial),
                    "info": info or {},
                }
            )
        self._meta = self.store.meta()
        self._check(maximize)

    def _initial(self, given: int | None) -> int:
        if given is not None:
            if given < 1:
                raise InputError(f"num_initial must be at least 1, got {given}.")
            return int(given)
        return 2 * (self.space.dimension + 1) if isinstance(self.space, Box) else _POOL_INITIAL

    def _check(self, maximize: bool | None) -> None:
        if maximize is not None and bool(maximize) != self.maximize:
            word = "maximised" if self.maximize else "minimised"
            raise InputError(
                f"{self.store.path} is a campaign to be {word}; start another file for the reverse."
            )
        here = self.space.describe()
        if here != self._meta["space"]:
            raise InputError(
                f"{self.store.path} was started on another space: {self._meta['space']}, given is {here}."
            )

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
        """Trials asked for and not yet told, by id."""
        return [trial for trial in self.results() if trial.state == "pending"]

    def results(self) -> list[Trial]:
        """Every trial, by id."""
        return self.store.trials()

    def best(self, k: int = 1) -> list[Trial]:
        """The k best measured trials, best first; ties in order of id."""
        sign = -1.0 if self.maximize else 1.0
        measured = [(sign * t.value, t.id, t) for t in self.results() if t.value is not None]
        return [trial for _, _, trial in sorted(measured, key=lambda item: item[:2])[: max(0, int(k))]]

    def ask(self, q: int = 1) -> list[Trial]:
        """The next q points to measure, written to disk before this returns.

        Until `num_initial` measurements are in, points are drawn at random (a Sobol sequence in a box);
        afterwards the model is fitted to all measurements and each point maximises its own posterior sample.

        Raises:
            InputError: q is not positive, or fewer pool rows are left.
        """
        if q < 1:
            raise InputError(f"ask for at least one point, got q={q}.")
        for _ in range(_ATTEMPTS):
            trials = self.results()
            told = sum(trial.state != "pending" for trial in trials)
            root = as_generator(int(self._meta["seed"]))
            (generator,) = streams(root, f"ask after {len(trials)} trials, {told} told")
            try:
                return self.store.add_asked(self._propose(q, trials, generator))
            except DuplicateAsk:
                continue
        raise InputError(f"other processes kept asking {self.store.path} for the same rows; try again.")

    def tell(self, id: int, value: float) -> Trial:
        """Report the measurement of a pending trial, written to disk before this returns.

        Raises:
            InputError: unknown trial, a value that is not finite, or another value was told before.
        """
        return self.tell_many([(id, value)])[0]

    def tell_many(self, results: Iterable[tuple[int, float]]) -> list[Trial]:
        """Report several measurements, all or none."""
        return self.store.finish([(int(number), _value(value), None) for number, value in results])

    def fail(self, id: int, reason: str = "") -> Trial:
        """Report that a trial could not be measured; its pool row is not asked for again.

        Raises:
            InputError: unknown trial, or it was measured.
        """
        return self.store.finish([(int(id), None, str(reason))])[0]

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
        """Add several measurements made elsewhere, all or none."""
        return self.store.add_measured([(self._place(x), _value(value)) for x, value in measured])

    def model(self, num_samples: int = 1, *, generator: torch.Generator | int | None = None) -> Surrogate:
        """The model fitted to every measurement so far (box: in unit-cube coordinates)."""
        return self._model(self.results(), num_samples, as_generator(generator))

    def _model(self, trials: Sequence[Trial], num_samples: int, generator: torch.Generator) -> Surrogate:
        measured = [trial for trial in trials if trial.value is not None]
        if not measured:
            raise InputError(f"{self.store.path} has no measurement yet: tell or attach some first.")
        values = torch.tensor([trial.value for trial in measured], dtype=torch.float64)
        return fit_surrogate(
            self._features(measured),
            values,
            num_samples=num_samples,
            kernel=self._kernel,
            num_features=self._num_features,
            generator=generator,
        )

    def _features(self, trials: Sequence[Trial]) -> Tensor:
        if isinstance(self.space, Box):
            return self.space.to_unit(torch.tensor([trial.x for trial in trials], dtype=torch.float64))
        sample = self.space.rows([0])
        out = torch.empty(len(trials), sample.shape[1], dtype=sample.dtype)
        for position, trial in enumerate(trials):
            if trial.index is None:
                out[position] = torch.tensor(trial.x, dtype=torch.float64).to(sample.dtype)
        inside = [(p, t.index) for p, t in enumerate(trials) if t.index is not None]
        if inside:
            out[torch.tensor([p for p, _ in inside])] = self.space.rows([row for _, row in inside])
        return out

    def _propose(self, q: int, trials: Sequence[Trial], generator: torch.Generator) -> list[NewTrial]:
        measured = sum(trial.state == "measured" for trial in trials)
        modelled = measured >= int(self._meta["num_initial"])
        if isinstance(self.space, Box):
            unit = Box([[0.0, 1.0]] * self.space.dimension)
            if modelled:
                model = self._model(trials, q, generator)
                chooser = ThompsonSampling(unit, q, maximize=self.maximize, search=self._search)
                points = chooser.suggest(model.posterior, generator=generator)
            else:
                engine = torch.quasirandom.SobolEngine(
                    unit.dimension, scramble=True, seed=int(self._meta["seed"]) % 2**31
                )
                points = engine.fast_forward(len(trials)).draw(q, dtype=torch.float64)
            return [NewTrial(x=tuple(point.tolist())) for point in self.space.from_unit(points)]
        taken = {trial.index for trial in trials if trial.index is not None}
        rows = self._pool_rows(q, taken, trials, modelled, generator)
        return [NewTrial(index=row, label=self._label(row)) for row in rows]

    def _pool_rows(
        self, q: int, taken: set[int], trials: Sequence[Trial], modelled: bool, generator: torch.Generator
    ) -> list[int]:
        left = len(self.space) - len(taken) if isinstance(self.space, Pool) else 0
        if left < q:
            raise InputError(f"{q} points are asked for but only {left} pool rows are left.")
        if modelled and isinstance(self.space, Pool):
            model = self._model(trials, q, generator)
            chooser = ThompsonSampling(self.space, q, maximize=self.maximize)
            return chooser.suggest(model.posterior, exclude=sorted(taken), generator=generator).tolist()
        order = torch.randperm(left + len(taken), generator=generator).tolist()
        return [row for row in order if row not in taken][:q]

    def _label(self, row: int) -> str | None:
        names = getattr(self.space.table, "smiles", None) if isinstance(self.space, Pool) else None
        return None if names is None else str(names[row])

    def _place(self, x: Any) -> NewTrial:
        if isinstance(self.space, Box):
            return NewTrial(x=tuple(self.space.check(x).tolist()))
        if isinstance(x, str):
            names = getattr(self.space.table, "smiles", None)
            row = next((i for i, name in enumerate(names or ()) if name == x), None)
            if row is None:
                raise InputError(
                    f"the pool has no candidate named {x!r}: give its row or its features instead."
                )
            return NewTrial(index=row, label=x)
        point = torch.as_tensor(x)
        if point.ndim == 0:
            if point.is_floating_point():
                raise InputError(f"a pool row is an integer, got {x!r}.")
            self.space.rows([int(point)])
            return NewTrial(index=int(point), label=self._label(int(point)))
        width = self.space.rows([0]).shape[1]
        if point.shape != (width,):
            raise ShapeError(
                f"features of a candidate of this pool have shape ({width},), got {tuple(point.shape)}."
            )
        if not bool(torch.isfinite(point.to(torch.float64)).all()):
            raise InputError("the features hold a value that is not finite.")
        return NewTrial(x=tuple(point.to(torch.float64).tolist()))


def _value(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise InputError(
            f"a measurement must be a finite number, got {number}; use fail(id, reason) for failures."
        )
    return number

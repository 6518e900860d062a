"""An acquisition rule: how the places of a batch are chosen from a posterior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sggp.bayesopt.maximise import BoxSearch, Look, Paths
from sggp.bayesopt.spaces.base import Space, check_room, check_space
from sggp.checks import finite_number, flag, whole_number
from sggp.errors import DtypeError, InputError
from sggp.random import as_generator, streams
from sggp.typing import Seed


class PosteriorLike(Protocol):
    """What a rule needs of a posterior: sample paths, and what is expected where."""

    @property
    def samples(self) -> Any:
        """Sample paths with ``num_samples``, a call, ``paired`` and ``select``."""

    def mean_and_variance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (q,) at points (q, d)."""


class Choice(NamedTuple):
    """A batch, in the order in which its places were chosen.

    Attributes:
        places: pool rows (k,) or points of a box (k, d).
        values: (k,) what each place was chosen for, see the rule.
        why: k lines of plain words.
    """

    places: Tensor
    values: Tensor
    why: list[str]


class Rule(ABC):
    """Choose a batch: each slot takes the best place of a function of its own.

    A subclass says which functions (`functions`) and how many sample paths they need (`num_samples`); one that chooses
    in another way says how (`pick`). `note` puts the reason for a choice into words.

    Args:
        space: `Box` or `Pool`, in the coordinates of the posterior.
        batch_size: number of places per batch.
        maximize: False when smaller values are better.
        search: how hard to look in a box; unused for a pool.
        progress: called with the number of pool rows done; unused for a box.

    Raises:
        DtypeError: `space` is no space, or `search` no `BoxSearch`.
        InputError: `batch_size` is no positive integer, or above the number of rows of a pool.
    """

    def __init__(
        self,
        space: Space,
        batch_size: int,
        *,
        maximize: bool = True,
        search: BoxSearch | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> None:
        self.space = check_space(space)
        self.batch_size = whole_number(batch_size, "batch_size")
        check_room(self.space, self.batch_size)
        self.maximize = flag(maximize, "maximize")
        if search is not None and not isinstance(search, BoxSearch):
            raise DtypeError(f"search must be a BoxSearch or None, got {type(search).__name__}.")
        self.search = search
        self.progress = progress

    @property
    def num_samples(self) -> int:
        """How many sample paths the posterior must carry."""
        return self.batch_size

    def paths_for(self, measured: int) -> int:
        """How many of them the rule looks at where the posterior is that of so many fingerprints: all, or none."""
        return self.num_samples

    def needs_paths(self, posterior: Any) -> bool:
        """Whether the rule looks at sample paths of this posterior."""
        return True

    @property
    def sign(self) -> float:
        """1 where larger values are better, else -1."""
        return 1.0 if self.maximize else -1.0

    @abstractmethod
    def functions(self, posterior: Any, generator: torch.Generator) -> Paths:
        """`batch_size` functions, the i-th for slot i; the best place of each is looked for.

        Args:
            posterior: carries at least `num_samples` sample paths, as `posterior.samples`.
            generator: for whatever the rule draws.
        """

    def pick(self, posterior: Any, look: Look, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The places of a batch and their values: of each of `functions` the best place, no pool row twice."""
        return self.space.maximise(self.functions(posterior, generator), posterior, look)

    def note(self, slot: int, value: float, scaling: tuple[float, float]) -> str:
        """Why slot `slot` took its place, which has this value; `scaling` is that of `choose`."""
        return f"the best of the rule's function {slot + 1}: {in_units(value, scaling)}"

    def suggest(
        self,
        posterior: PosteriorLike,
        *,
        exclude: Iterable[int] | Tensor = (),
        pending: Iterable[int] | Tensor = (),
        generator: Seed = None,
    ) -> Tensor:
        """The next batch.

        Args:
            posterior: what is known; where the rule looks at sample paths, it must carry at least `num_samples`.
            exclude: pool rows never to propose (measured, failed, unavailable); in a box points (k, d), in the
                coordinates of the posterior, that nothing is proposed within 1e-6 of.
            pending: the same of what is being measured now.
            generator: for what the rule draws and for the candidates in a box.

        Returns:
            Pool: (batch_size,) distinct row indices. Box: (batch_size, d) points.

        Raises:
            InputError: too few sample paths, or too few rows or points left.
        """
        return self.choose(posterior, exclude=exclude, pending=pending, generator=generator).places

    def choose(
        self,
        posterior: PosteriorLike,
        exclude: Any = (),
        pending: Any = (),
        generator: Seed = None,
        *,
        scaling: tuple[float, float] = (0.0, 1.0),
    ) -> Choice:
        """As `suggest`, with the values and the reasons.

        Args:
            posterior, exclude, pending, generator: as `suggest`.
            scaling: offset and scale that turn the posterior's values into those of the user, for the reasons.
        """
        if self.needs_paths(posterior):
            self._check_paths(posterior)
        offset, scale = (finite_number(number, "scaling") for number in scaling)
        # the names of the streams are those of the first rule: campaigns go on with the numbers they began with
        pick, look = streams(as_generator(generator), "thompson paths", "thompson candidates")
        how = Look(self.maximize, look, self.search, self.progress, exclude, pending)
        rule = self
        if hasattr(self.space, "explore"):  # candidates that have to be found first
            rule, places, values, _ = self.space.explore(self, posterior, how, pick)
        else:
            places, values = self.pick(posterior, how, pick)
        expected = self._expected(posterior, places, (offset, scale))
        notes = [rule.note(slot, value, (offset, scale)) for slot, value in enumerate(values.tolist())]
        why = [f"{first}; {note}" if first else note for first, note in zip(expected, notes, strict=True)]
        return Choice(places, values, why)

    def _check_paths(self, posterior: Any) -> None:
        if not hasattr(posterior, "samples"):
            raise DtypeError(f"expected a posterior with samples, got {type(posterior).__name__}.")
        have, need = int(posterior.samples.num_samples), self.num_samples
        if have < need:
            raise InputError(
                f"the posterior carries {have} sample paths but the batch needs {need}: call "
                f"condition(..., num_samples={need}) or lower batch_size."
            )

    def _expected(self, posterior: Any, places: Tensor, scaling: tuple[float, float]) -> list[str]:
        """What the posterior expects at the places, in words; nothing where it is nothing but its paths."""
        if not hasattr(posterior, "mean_and_variance"):
            return [""] * len(places)
        space: Any = self.space
        points = space.rows(places) if is_pool(space) else places
        mean, std = mean_and_std(posterior, points)
        return [
            f"expected {in_units(m, scaling)} ± {abs(scaling[1]) * s:.2g}"
            for m, s in zip(mean.tolist(), std.tolist(), strict=True)
        ]


def is_pool(space: Any) -> bool:
    """Whether a space is a set of rows, to be read in chunks."""
    return hasattr(space, "chunks")


def mean_and_std(posterior: Any, points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (q,) at points (q, d), float64, differentiable where the posterior is."""
    mean, variance = posterior.mean_and_variance(points)
    # not zero, where a square root has no slope
    return mean.to(torch.float64), variance.to(torch.float64).clamp_min(1e-20).sqrt()


def mean_at(posterior: Any, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q)
    """The mean, alone where the posterior can give it alone."""
    if hasattr(posterior, "mean"):
        return posterior.mean(points)
    return posterior.mean_and_variance(points)[0]


def in_units(value: float, scaling: tuple[float, float]) -> str:
    """A value of the posterior in the user's units."""
    return f"{scaling[0] + scaling[1] * value:.4g}"


def sample_note(rule: Rule, slot: int, value: float, scaling: tuple[float, float]) -> str:
    """Which sample a slot went by, and its value there."""
    return f"sample {slot + 1} of {rule.batch_size}, {in_units(value, scaling)} there"

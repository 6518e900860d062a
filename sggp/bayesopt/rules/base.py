"""An acquisition rule: which functions, made of posterior samples, a batch maximises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from sggp.bayesopt.maximise import BoxSearch, Look, Paths
from sggp.bayesopt.spaces.base import Space, check_room, check_space
from sggp.checks import flag, whole_number
from sggp.errors import DtypeError, InputError
from sggp.random import as_generator, streams
from sggp.typing import Seed


class PosteriorLike(Protocol):
    """What a rule needs of a posterior: its sample paths."""

    @property
    def samples(self) -> Any:
        """Sample paths with ``num_samples``, a call, ``paired`` and ``select``."""


class Rule(ABC):
    """Choose a batch: each slot takes the best point of a function of its own.

    A subclass says which functions (`functions`) and how many sample paths they need (`num_samples`).

    Args:
        space: `Box` or `Pool`, in the coordinates of the posterior.
        batch_size: number of points per batch.
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

    @abstractmethod
    def functions(self, posterior: Any, generator: torch.Generator) -> Paths:
        """`batch_size` functions, the i-th for slot i; the best point of each is looked for.

        Args:
            posterior: carries at least `num_samples` sample paths, as `posterior.samples`.
            generator: for whatever the rule draws.
        """

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
            posterior: what is known; it must carry at least `num_samples` sample paths.
            exclude: pool rows never to propose (measured, failed, unavailable); a box takes none.
            pending: pool rows being measured now, not proposed either. In a box, points being measured now: the
                independent paths already spread a batch, so they change nothing there.
            generator: for what the rule draws and for the candidates in a box.

        Returns:
            Pool: (batch_size,) distinct row indices. Box: (batch_size, d) points.

        Raises:
            InputError: too few sample paths, too few rows left, or `exclude` with a box.
        """
        return self.choose(posterior, exclude=exclude, pending=pending, generator=generator)[0]

    def choose(
        self, posterior: PosteriorLike, exclude: Any = (), pending: Any = (), generator: Seed = None
    ) -> tuple[Tensor, Tensor]:
        """As `suggest`, and the value of each slot's function at its point (batch_size,)."""
        if not hasattr(posterior, "samples"):
            raise DtypeError(f"expected a posterior with samples, got {type(posterior).__name__}.")
        have, need = int(posterior.samples.num_samples), self.num_samples
        if have < need:
            raise InputError(
                f"the posterior carries {have} sample paths but the batch needs {need}: call "
                f"condition(..., num_samples={need}) or lower batch_size."
            )
        # the names of the streams are those of the first rule: campaigns go on with the numbers they began with
        pick, look = streams(as_generator(generator), "thompson paths", "thompson candidates")
        how = Look(self.maximize, look, self.search, self.progress, exclude, pending)
        return self.space.maximise(self.functions(posterior, pick), posterior, how)

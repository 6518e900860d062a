"""Thompson sampling: each member of a batch is the optimum of its own posterior sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from sggp.bayesopt.maximise import BoxSearch, Paths, maximise_box, maximise_pool
from sggp.bayesopt.space import Box, Pool, Space, as_rows
from sggp.errors import DtypeError, InputError
from sggp.random import as_generator, streams
from sggp.typing import Seed

__all__ = ["PosteriorLike", "ThompsonSampling"]


class PosteriorLike(Protocol):
    """What Thompson sampling needs of a posterior: its sample paths."""

    @property
    def samples(self) -> Any:
        """Sample paths with ``num_samples``, a call, ``paired`` and ``select``."""
        ...


class ThompsonSampling:
    """Choose a batch by maximising one posterior sample per slot.

    Args:
        space: `Box` or `Pool`.
        batch_size: number of points per batch.
        maximize: False when smaller values are better.
        search: how hard to look in a box; unused for a pool.
        progress: called with the number of pool rows done; unused for a box.

    Raises:
        InputError: `batch_size` is not positive, or above the number of rows of a pool.

    Example:
        >>> ThompsonSampling(Box([[0.0, 1.0]]), batch_size=8).batch_size
        8

    Source: Thompson (1933); parallel form: Hernandez-Lobato et al., ICML 2017, Algorithm 2.
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
        if not isinstance(space, Box | Pool):
            raise DtypeError(f"space must be a Box or a Pool, got {type(space).__name__}.")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}.")
        if isinstance(space, Pool) and batch_size > len(space):
            raise InputError(f"batch_size is {batch_size} but the pool has only {len(space)} rows.")
        self.space = space
        self.batch_size = int(batch_size)
        self.maximize = bool(maximize)
        self.search = search
        self.progress = progress

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
            posterior: what is known; it must carry at least `batch_size` sample paths.
            exclude: pool rows never to propose (measured, failed, unavailable); a box takes none.
            pending: pool rows being measured now, not proposed either. In a box, points being measured now: the
                independent paths already spread a batch, so they change nothing there.
            generator: picks the paths (when there are more than needed) and the candidates in a box.

        Returns:
            Pool: (batch_size,) distinct row indices. Box: (batch_size, d) points.

        Raises:
            InputError: too few sample paths, too few rows left, or `exclude` with a box.
        """
        pick, look = streams(as_generator(generator), "thompson paths", "thompson candidates")
        paths = self._paths(posterior.samples, pick)
        if isinstance(self.space, Pool):
            size = len(self.space)
            banned = torch.cat(
                [as_rows(exclude, size, what="exclude"), as_rows(pending, size, what="pending")]
            )
            rows, _ = maximise_pool(
                paths, self.space, maximize=self.maximize, exclude=banned, progress=self.progress
            )
            return rows
        if len(exclude if isinstance(exclude, Tensor) else list(exclude)):
            raise InputError("exclude names pool rows; a box has none: leave it empty.")
        points, _ = maximise_box(
            paths,
            self.space,
            generator=look,
            search=self.search,
            maximize=self.maximize,
            near=_measured(posterior),
            lengthscale=_lengthscale(getattr(posterior, "kernel", None), self.space.dimension),
        )
        return points

    def _paths(self, samples: Any, generator: torch.Generator) -> Paths:
        have = int(samples.num_samples)
        if have < self.batch_size:
            raise InputError(
                f"the posterior carries {have} sample paths but the batch needs {self.batch_size}: "
                f"call condition(..., num_samples={self.batch_size}) or lower batch_size."
            )
        if have == self.batch_size:
            return samples
        return samples.select(torch.randperm(have, generator=generator)[: self.batch_size])


def _measured(posterior: Any) -> tuple[Tensor, Tensor] | None:
    x, y = getattr(posterior, "x", None), getattr(posterior, "y", None)
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.shape[0] != y.shape[0] or not len(x):
        return None
    return x, y


def _lengthscale(kernel: Any, dimension: int) -> Tensor | None:
    """The kernel's length scales where it has one set of them, else None."""
    while kernel is not None:
        found = getattr(kernel, "lengthscale", None)
        if isinstance(found, Tensor) and found.numel() in (1, dimension):
            return found.detach().flatten()
        kernel = getattr(kernel, "base_kernel", None)
    return None

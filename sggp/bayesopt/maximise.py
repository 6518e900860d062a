"""What looking for the best points of sample paths needs, and the best rows of a pool by one sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sggp.checks import finite_number, whole_number
from sggp.errors import DtypeError, InputError, ShapeError


class Paths(Protocol):
    """Function samples that can be called: `sggp.posterior.PathwiseSamples` and anything like it."""

    @property
    def num_samples(self) -> int:
        """Number of paths s."""

    def __call__(self, points: Tensor) -> Tensor:
        """Every path at shared points: (q, d) -> (s, q)."""

    def paired(self, points: Tensor) -> Tensor:
        """Path i at its own points: (s, q, d) -> (s, q)."""


class Candidates(Protocol):
    """What `maximise_pool` asks of a `Pool`."""

    def __len__(self) -> int: ...

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """First row and features of every chunk."""


@dataclass(frozen=True)
class BoxSearch:
    """Settings of `maximise_box`.

    Args:
        rounds: number of candidate rounds; each round's best point per path may start a climb.
        candidates: points per round, shared by all paths. Raise it in high dimension.
        uniform_share: share of the candidates drawn uniformly; the others lie near good measured points.
        starts: climbs per path, from the best of the rounds' best.
        steps: Adam steps per climb; 0 keeps the best candidate.
        learning_rate: first Adam step, in length scales; it decays to 1 % along a cosine.
        repeats: paths may share a point, or take a known one, where their values are asked for and no batch is.
    """

    rounds: int = 8
    candidates: int = 2048
    uniform_share: float = 0.1
    starts: int = 4
    steps: int = 60
    learning_rate: float = 0.1
    repeats: bool = False

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("candidates", 1), ("starts", 1), ("steps", 0)):
            whole_number(getattr(self, name), f"BoxSearch.{name}", least=least)
        for name in ("uniform_share", "learning_rate"):
            finite_number(getattr(self, name), f"BoxSearch.{name}")
        if not 0.0 <= self.uniform_share <= 1.0 or not self.learning_rate > 0.0:
            raise InputError("BoxSearch needs uniform_share in [0, 1] and a positive learning_rate.")


@dataclass(frozen=True)
class Look:
    """How a rule has the best points of its functions looked for: arguments of `Rule` and of `Rule.suggest`.

    What is not to be proposed (`exclude`, `pending`) are rows of a pool, or points (k, D) of a box.
    """

    maximize: bool
    generator: torch.Generator
    search: BoxSearch | None = None
    progress: Callable[[int], Any] | None = None
    exclude: Iterable[int] | Tensor = ()
    pending: Iterable[int] | Tensor = ()


def finite(values: Tensor) -> Tensor:
    """The values of paths, refused by an InputError where one is not finite."""
    if not bool(torch.isfinite(values).all()):
        raise InputError("a sample path gave a value that is not finite: see posterior.solution for why.")
    return values


def maximise_pool(
    paths: Paths,
    pool: Candidates,
    *,
    maximize: bool = True,
    exclude: Iterable[int] | Tensor = (),
    chunk_size: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """The best row of each of s paths in a pool, no row twice: path i takes its best row not yet taken.

    One sweep over the pool in chunks. Each path keeps its s best rows, which is as deep as the paths before
    it can push it, so the greedy choice is exact. Equal values go to the lower row, so the result does not
    depend on the chunk size.

    Args:
        paths: s sample paths.
        pool: N candidates.
        maximize: False looks for the smallest values.
        exclude: rows that may not be chosen (indices, or a boolean mask of length N).
        chunk_size: rows at once; None takes the pool's own.
        progress: called with the number of rows done after each chunk.

    Returns:
        rows (s,) int64, all distinct, and the paths' values there (s,).

    Raises:
        InputError: fewer rows are left than paths, or a path gives a value that is not finite.

    Cost: N path evaluations per sample; memory O(chunk * s + s^2) beyond the pool.
    """
    banned = torch.unique(as_indices(exclude, len(pool), what="exclude"))
    keep = paths.num_samples
    if keep > len(pool) - banned.numel():
        raise InputError(
            f"{keep} rows are asked for but {len(pool) - banned.numel()} of {len(pool)} are left "
            f"({banned.numel()} are excluded)."
        )
    sign = 1.0 if maximize else -1.0
    best_value, best_row = torch.empty(keep, 0), torch.empty(keep, 0, dtype=torch.long)
    for start, features in pool.chunks(chunk_size):
        with torch.no_grad():
            height = sign * finite(paths(features)).detach().cpu()
        stop = start + features.shape[0]
        inside = banned[(banned >= start) & (banned < stop)] - start
        height[:, inside] = -math.inf
        rows = torch.cat([best_row, torch.arange(start, stop).expand(keep, -1)], dim=1)
        best_value, best_row = deepest(torch.cat([best_value, height], dim=1), rows, keep)
        if progress is not None:
            progress(stop)
    chosen = distinct_best(best_row)[:, None]
    return best_row.gather(1, chosen)[:, 0], sign * best_value.gather(1, chosen)[:, 0]


def deepest(height: Tensor, rows: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Each path's `keep` best entries in descending order; `rows` ascends within ties."""
    depth = min(keep, height.shape[1])
    threshold = height.topk(depth, dim=1).values[:, -1:]
    values, indices = [], []
    for line, row, floor in zip(height, rows, threshold, strict=True):
        where = (line >= floor).nonzero().squeeze(1)
        order = torch.argsort(line[where], descending=True, stable=True)[:depth]
        values.append(line[where[order]])
        indices.append(row[where[order]])
    return torch.stack(values), torch.stack(indices)


def distinct_best(best_row: Tensor) -> Tensor:  # (s, k) -> (s,)
    """The position in each path's list of its best row that no earlier path took."""
    taken: set[int] = set()
    chosen = []
    for ranked in best_row.tolist():
        chosen.append(next(i for i, row in enumerate(ranked) if row not in taken))
        taken.add(ranked[chosen[-1]])
    return torch.tensor(chosen, dtype=torch.long)


def as_indices(rows: Any, size: int | None, *, what: str) -> Tensor:
    """(k,) int64 row indices in the order given, checked against 0..size-1; a boolean mask gives its true rows."""
    single = hasattr(rows, "__index__") and getattr(rows, "ndim", 0) == 0
    try:
        listed = rows
        if not isinstance(rows, Tensor):
            listed = torch.as_tensor(np.asarray([rows] if single else list(rows)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DtypeError(f"{what} must hold row indices or a mask, got {type(rows).__name__}.") from error
    if listed.dtype == torch.bool and listed.numel():
        if size is not None and listed.shape != (size,):
            raise ShapeError(f"a mask of {what} rows must have shape ({size},), got {tuple(listed.shape)}.")
        listed = listed.nonzero()
    if listed.numel() and (listed.is_floating_point() or listed.is_complex()):
        raise DtypeError(f"{what} must hold row indices (integers), got {listed.dtype}.")
    index = listed.detach().cpu().flatten().to(torch.long)
    if index.numel() and size is not None and (int(index.min()) < 0 or int(index.max()) >= size):
        raise InputError(
            f"{what} holds row {int(index.min())}..{int(index.max())}, but the pool has rows 0..{size - 1}."
        )
    return index

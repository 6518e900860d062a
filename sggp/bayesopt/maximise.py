"""The best point of every sample path: over a box by gradients, over a pool by one sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sggp.checks import finite_number, whole_number
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.typing import Dtype


class Paths(Protocol):
    """Function samples that can be called: `sggp.posterior.PathwiseSamples` and anything like it."""

    @property
    def num_samples(self) -> int:
        """Number of paths s."""

    def __call__(self, points: Tensor) -> Tensor:
        """Every path at shared points: (q, d) -> (s, q)."""

    def paired(self, points: Tensor) -> Tensor:
        """Path i at its own points: (s, q, d) -> (s, q)."""


class Region(Protocol):
    """What `maximise_box` asks of a `Box`."""

    @property
    def dimension(self) -> int:
        """Number of coordinates d."""

    @property
    def width(self) -> Tensor:
        """Upper minus lower bound, (d,)."""

    def sample(self, count: int, *, generator: torch.Generator, dtype: Dtype = ...) -> Tensor:
        """Uniform points, (count, d)."""

    def clip(self, points: Tensor) -> Tensor:
        """The nearest points inside."""


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
    """

    rounds: int = 8
    candidates: int = 2048
    uniform_share: float = 0.1
    starts: int = 4
    steps: int = 60
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("candidates", 1), ("starts", 1), ("steps", 0)):
            whole_number(getattr(self, name), f"BoxSearch.{name}", least=least)
        for name in ("uniform_share", "learning_rate"):
            finite_number(getattr(self, name), f"BoxSearch.{name}")
        if not 0.0 <= self.uniform_share <= 1.0 or not self.learning_rate > 0.0:
            raise InputError("BoxSearch needs uniform_share in [0, 1] and a positive learning_rate.")


@dataclass(frozen=True)
class Look:
    """How a rule has the best points of its functions looked for: arguments of `Rule` and of `Rule.suggest`."""

    maximize: bool
    generator: torch.Generator
    search: BoxSearch | None = None
    progress: Callable[[int], Any] | None = None
    exclude: Iterable[int] | Tensor = ()
    pending: Iterable[int] | Tensor = ()


def maximise_box(
    paths: Paths,
    box: Region,
    *,
    generator: torch.Generator,
    search: BoxSearch | None = None,
    maximize: bool = True,
    near: tuple[Tensor, Tensor] | None = None,
    lengthscale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best point of each of s paths in a box.

    Candidates are drawn uniformly and near good measured points, every path picks its best of each round, and
    the best few climb by projected Adam on ``paths.paired``, all paths and starts at once. The best point
    seen on the way is kept, so the result is never worse than the best candidate.

    Args:
        paths: s sample paths, differentiable in their points when ``search.steps > 0``.
        box: where to look.
        generator: source of the candidates.
        search: how hard to look.
        maximize: False looks for the smallest value instead.
        near: measured inputs (n, d) and values (n,) to draw candidates around; None draws uniformly only.
        lengthscale: (d,) or scalar distance over which paths vary, in the units of the box; sets the spread
            of the candidates (half of it, as in the source) and the size of the Adam steps. None: a fifth of
            the box.

    Returns:
        points (s, d) inside the box, and the paths' values there (s,).

    Raises:
        InputError: a path gives a value that is not finite.

    Cost: (rounds * candidates + 3 * starts * steps) evaluations of each path.

    Source: Lin et al., "Sampling from Gaussian process posteriors using stochastic gradient descent" (2023),
    section 4.2, and its successor (2024). Departures: 1. measured points are drawn with weights that increase
    with their value (the published code had the sign of the shift reversed, so the worst point had the
    largest weight); 2. the spread varies between a tenth of half a length scale and the whole of it; 3. steps
    are in length scales, projected on the box, and decay.
    """
    settings = search or BoxSearch()
    sign = 1.0 if maximize else -1.0
    dtype = near[0].dtype if near is not None and near[0].is_floating_point() else torch.float64
    scale = _step_scale(box, lengthscale).to(dtype)
    draw = partial(_candidates, box, settings, near, sign, scale, generator, dtype)
    starts = _best_of_rounds(paths, draw, settings, sign)
    points, values = _climb(paths, box, starts, settings, sign, scale)
    pick = values.argmax(dim=1)
    index = torch.arange(points.shape[0])
    return points[index, pick], sign * values[index, pick]


def _step_scale(box: Region, lengthscale: Tensor | None) -> Tensor:
    """(d,) distance over which paths vary, at most the box itself."""
    if lengthscale is None:
        return 0.2 * box.width
    scale = torch.as_tensor(lengthscale, dtype=torch.float64).detach().cpu().flatten()
    if scale.numel() not in (1, box.dimension):
        raise ShapeError(f"lengthscale must have 1 or {box.dimension} entries, got {scale.numel()}.")
    return torch.minimum(scale.expand(box.dimension), box.width)


def _candidates(
    box: Region,
    settings: BoxSearch,
    near: tuple[Tensor, Tensor] | None,
    sign: float,
    scale: Tensor,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """(candidates, d): a uniform share, the rest scattered around good measured points."""
    uniform = settings.candidates if near is None else math.ceil(settings.uniform_share * settings.candidates)
    parts = [box.sample(uniform, generator=generator, dtype=dtype)]
    if near is not None and settings.candidates > uniform:
        inputs, values = near
        merit = sign * values.detach().to(torch.float64).cpu()
        spread = float(merit.std()) if merit.numel() > 1 else 0.0
        weights = torch.exp(2.0 * (merit - merit.max()) / spread) if spread > 0 else torch.ones_like(merit)
        count = settings.candidates - uniform
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
        shrink = 10.0 ** -torch.rand(count, 1, generator=generator, dtype=torch.float64)
        noise = torch.randn(count, box.dimension, generator=generator, dtype=torch.float64)
        around = inputs.detach().cpu()[chosen].to(torch.float64) + 0.5 * scale * shrink * noise
        parts.append(box.clip(around).to(dtype))
    return box.clip(torch.cat(parts))


def _best_of_rounds(paths: Paths, draw: Callable[[], Tensor], settings: BoxSearch, sign: float) -> Tensor:
    """(s, starts, d): for each path, the best of the rounds' best candidates."""
    points, values = [], []
    for _ in range(settings.rounds):
        candidates = draw()
        with torch.no_grad():
            height = sign * _finite(paths(candidates)).cpu()
        best, where = height.max(dim=1)
        points.append(candidates[where])
        values.append(best)
    order = torch.stack(values, dim=1).topk(min(settings.starts, settings.rounds), dim=1).indices
    return torch.stack(points, dim=1).gather(1, order.unsqueeze(-1).expand(-1, -1, points[0].shape[1]))


def _climb(
    paths: Paths, box: Region, starts: Tensor, settings: BoxSearch, sign: float, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Projected Adam from `starts` (s, k, d), each on its own: the best points and their heights."""
    x = starts.clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    with torch.no_grad():
        best_value = sign * _finite(paths.paired(x)).cpu()
    best = x.clone()
    for step in range(1, settings.steps + 1):
        x.requires_grad_(True)
        height = sign * paths.paired(x)
        (slope,) = torch.autograd.grad(height.sum(), x)
        with torch.no_grad():
            best, best_value = _keep_best(best, best_value, x, _finite(height.detach()).cpu())
            slope = slope.detach().cpu() * scale
            first = 0.9 * first + 0.1 * slope
            second = 0.99 * second + 0.01 * slope.square()
            ratio = (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-12)
            rate = settings.learning_rate * (0.01 + 0.495 * (1 + math.cos(math.pi * step / settings.steps)))
            x = box.clip(x.detach() + rate * scale * ratio)
    with torch.no_grad():
        return _keep_best(best, best_value, x, sign * _finite(paths.paired(x)).cpu())


def _keep_best(best: Tensor, best_value: Tensor, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    better = value > best_value
    return torch.where(better.unsqueeze(-1), x.detach(), best), torch.where(better, value, best_value)


def _finite(values: Tensor) -> Tensor:
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
            height = sign * _finite(paths(features)).detach().cpu()
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

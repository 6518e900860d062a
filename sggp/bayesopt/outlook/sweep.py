"""One pass over a pool by blocks: what each path says of the rows that nobody has measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.outlook.recalibrate import Correction, Recalibration
from sggp.bayesopt.spaces import Pool
from sggp.bayesopt.surrogate import Surrogate
from sggp.errors import InputError

_NOISE_ROWS = 256
_ENTRIES = 2**20
"""Values of all paths that are held at once."""


@dataclass(frozen=True)
class Truths:
    """What paths make of values: their own part, a row's own part, the correction, the scale on which values lie.

    Attributes:
        model: whose paths. sign: 1 where larger is better. correction: of the paths.
        own_std: standard deviation of what a row has that the paths do not know, in the model's units.
        step: distance of neighbouring values, 0 for none.
    """

    model: Surrogate
    sign: float
    correction: Correction
    own_std: float
    step: float

    @classmethod
    def of_model(cls, model: Surrogate, sign: float) -> Truths:
        """The paths as they are, which are the truth itself."""
        as_they_are = Recalibration.nothing().draw(model.posterior.num_samples, torch.Generator())
        return cls(model, sign, as_they_are, 0.0, 0.0)

    def paths(self, features: Tensor) -> Tensor:  # (q, d) -> (s, q)
        """Latent values in the model's units, larger being better."""
        with torch.no_grad():
            values = self.model.posterior.samples(features).detach().cpu().double()
        if not bool(torch.isfinite(values).all()):
            raise InputError("a sample path gave a value that is not finite: see posterior.solution for why.")
        return self.sign * values

    def at(self, features: Tensor, noise: Tensor) -> Tensor:  # (q, d), (s, q) -> (s, q)
        """Values that have not been measured, in the values' units, larger being better."""
        paths = self.paths(features)
        mean = paths.mean(0)
        return self.rounded(self.in_units(self.correction(mean, paths - mean + self.own_std * noise)))

    def in_units(self, standardised: Tensor) -> Tensor:
        return self.sign * self.model.offset + self.model.scale * standardised

    def rounded(self, values: Tensor) -> Tensor:
        """On the scale of the measured values, which differ by multiples of a step."""
        return (values / self.step).round() * self.step if self.step else values


@dataclass(frozen=True)
class Swept:
    """What the pass leaves, for each path. Rows that violate a condition there are -inf.

    Attributes:
        best: (s,) best value that has not been measured, -inf where everything has.
        above, level: (s, m) how many such values are above, and equal to, each of the m known ones.
        batch: (s, b) values of the batch.
    """

    best: Tensor
    above: Tensor
    level: Tensor
    batch: Tensor


def sweep(
    truths: Truths,
    pool: Pool,
    known: tuple[Tensor, Tensor],
    batch: Tensor,
    generator: torch.Generator,
    met: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Swept:
    """Evaluate every path at every row once.

    Args:
        truths: what a path says of a row.
        pool: N candidates.
        known: (k,) measured rows, ascending, and (s, m) the best of their values, ascending.
        batch: (b,) rows.
        generator: of the rows' own parts, drawn by 256 rows, so that blocks of any size give the same.
        met: on which paths (s, q) the next rows (q, d) meet all conditions; None where there are none.
        progress: called with the number of rows done after each block.

    Cost: N path evaluations per path; memory O(2^20 + s m) beyond the pool.
    """
    rows, sorted_known = known
    s = sorted_known.shape[0]
    found = Swept(
        torch.full((s,), -math.inf, dtype=torch.float64),
        torch.zeros(sorted_known.shape, dtype=torch.long),
        torch.zeros(sorted_known.shape, dtype=torch.long),
        torch.zeros(s, len(batch), dtype=torch.float64),
    )
    noise = RowNoise(s, generator)
    for start, features in pool.chunks(min(pool.chunk_size, max(_NOISE_ROWS, _ENTRIES // s))):
        stop = start + len(features)
        values = truths.at(features, noise.next(len(features)))
        if met is not None:
            values[~met(features)] = -math.inf
        inside = (batch >= start) & (batch < stop)
        found.batch[:, inside] = values[:, batch[inside] - start]
        values[:, rows[(rows >= start) & (rows < stop)] - start] = -math.inf
        torch.maximum(found.best, values.max(1).values, out=found.best)
        _count(values, sorted_known, found)
        if progress is not None:
            progress(stop)
    return found


def _count(values: Tensor, known: Tensor, found: Swept) -> None:
    """Add to `above` and `level` of each path the values that are not below its known ones."""
    last = known.shape[1]
    for path, (line, marks) in enumerate(zip(values, known, strict=True)):
        high = line[line >= marks[0]]
        if not len(high):
            continue
        strictly = torch.bincount(torch.searchsorted(marks, high), minlength=last + 1)
        weakly = torch.bincount(torch.searchsorted(marks, high, right=True), minlength=last + 1)
        above = strictly.flip(0).cumsum(0).flip(0)[1:]
        found.above[path] += above
        found.level[path] += weakly.flip(0).cumsum(0).flip(0)[1:] - above


class RowNoise:
    """Standard normal numbers (s, rows), the same however they are asked for."""

    def __init__(self, paths: int, generator: torch.Generator) -> None:
        self._generator = generator
        self._left = torch.empty(0, paths, dtype=torch.float64)

    def next(self, rows: int) -> Tensor:  # -> (s, rows)
        """Those of the next rows."""
        missing = math.ceil(max(0, rows - len(self._left)) / _NOISE_ROWS)
        shape = (_NOISE_ROWS, self._left.shape[1])
        parts = [torch.randn(shape, generator=self._generator, dtype=torch.float64) for _ in range(missing)]
        drawn = torch.cat([self._left, *parts])
        self._left = drawn[rows:]
        return drawn[:rows].T

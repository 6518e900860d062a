"""Thompson sampling for several objectives: each place adds the most to the hypervolume along a sample of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import BoxSearch, Look, Paths, deepest
from sggp.bayesopt.outcomes.fronts import free_boxes, improvement, shortfall
from sggp.bayesopt.rules.base import Rule, is_pool
from sggp.bayesopt.rules.sweep import open_rows
from sggp.errors import InputError

_MOST = 0.7  # of a gain on the measured front: a slot that keeps so much in a box keeps its point
_KEPT = 64  # rows of a pool kept for each slot, at least; four times the batch where that is more


class HypervolumeThompson(Rule):
    """Choose one place after the other: slot i takes the one that dominates most that is new, along sample i.

    New is what neither the front of the measured places (as the models see them) dominates nor the places chosen before
    in this batch, each with the values of its own sample. Places that violate a constraint along the sample come after
    all others, and the gain counts by the sample's probability of success. `values` are the gains, in units of the
    front's ranges. For two and three objectives volumes are exact; a posterior of one objective is refused.

    Args, Raises: as `Rule`.

    Cost: a box: one search for all slots on the measured front, and a quarter of one more for each slot that the places
        before it cost more than 30 % of its gain. A pool: one sweep of paths and boxes over N rows; then each slot
        chooses among the rows that added most to the measured front: 64, or four times the batch.

    Source: Bradford, Schweidtmann & Lapkin 2018 (TSEMO: Thompson samples chosen for hypervolume, batches greedily).
    """

    def functions(self, posterior: Any, generator: torch.Generator) -> Paths:
        """The gain on the measured front along as many samples as there are slots."""
        front, reference = _front(posterior)
        samples = posterior.samples
        chosen = torch.randperm(samples.num_samples, generator=generator)[: self.batch_size]
        return Gains(samples.select(chosen), free_boxes(front, reference))

    def pick(self, posterior: Any, look: Look, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        gains: Any = self.functions(posterior, generator)
        front, reference = _front(posterior)
        pool, search = is_pool(self.space), look.search or BoxSearch()
        again = replace(look, search=replace(search, rounds=math.ceil(search.rounds / 4)))
        found, first = self._first(gains, posterior, look)
        places: list[Tensor] = []
        values: list[Tensor] = []
        for slot in range(self.batch_size):
            own = replace(gains, paths=gains.paths.select([slot]), boxes=free_boxes(front, reference))
            if pool:
                point, value, place = _best_row(self.space, own, found[slot], places)
            else:
                point, value = found[slot][None], _gain_at(own, found[slot])
                if not 0 < float(value) >= _MOST * float(first[slot]):
                    point, value = self.space.maximise(own, posterior, again)
                place = point[0]
            places.append(place)
            values.append(value.reshape(()))
            with torch.no_grad():
                z, _, _ = own.paths.vectors(point)
            front = torch.cat([front, z[0].detach().cpu()])
        return torch.stack(places), torch.stack(values)

    def _first(self, gains: Gains, posterior: Any, look: Look) -> tuple[Tensor, Tensor]:
        """For each slot alone: rows to choose among, or in a box its best point and the gain there."""
        if is_pool(self.space):
            kept = self._kept(gains, look)
            return kept, kept
        return self.space.maximise(gains, posterior, look)

    def _kept(self, gains: Gains, look: Look) -> Tensor:  # -> (s, k)
        """The rows that each slot chooses among: the largest gains on the measured front, best first."""
        pool: Any = self.space
        free = open_rows(pool, look, self.batch_size)
        depth = max(_KEPT, 4 * self.batch_size)
        best, where = torch.empty(self.batch_size, 0), torch.empty(self.batch_size, 0, dtype=torch.long)
        for start, features in pool.chunks():
            with torch.no_grad():
                height = gains(features).detach().cpu()
            if not bool(torch.isfinite(height).all()):
                raise InputError(
                    "a sample path gave a value that is not finite: see posterior.solution for why."
                )
            stop = start + features.shape[0]
            height[:, ~free[start:stop]] = -math.inf
            rows = torch.cat([where, torch.arange(start, stop).expand(len(height), -1)], dim=1)
            best, where = deepest(torch.cat([best, height], dim=1), rows, depth)
            if look.progress is not None:
                look.progress(stop)
        return torch.where(best > -math.inf, where, -1)

    def note(self, slot: int, value: float, scaling: tuple[float, float]) -> str:
        if value <= 0:
            return f"nearest to the front along sample {slot + 1} of {self.batch_size}, which finds nothing beyond it"
        return f"adds {value:.2g} of the front's box to the hypervolume along sample {slot + 1} of {self.batch_size}"

    def _expected(self, posterior: Any, places: Tensor, scaling: tuple[float, float]) -> list[str]:
        """Nothing: one number does not say what is expected of several objectives."""
        return [""] * len(places)


@dataclass(frozen=True)
class Gains:
    """What points add to the hypervolume, along the paths; below zero how far they are from adding anything."""

    paths: Any
    boxes: tuple[Tensor, Tensor]

    @property
    def num_samples(self) -> int:
        return self.paths.num_samples

    def __call__(self, points: Tensor) -> Tensor:  # (q, d) -> (s, q)
        return self._gain(*self.paths.vectors(points))

    def paired(self, points: Tensor) -> Tensor:  # (s, q, d) -> (s, q)
        return self._gain(*self.paths.vectors(points, paired=True))

    def _gain(self, z: Tensor, penalty: Any, success: Any) -> Tensor:
        return success * improvement(z, self.boxes) - shortfall(z, self.boxes) - penalty


def _front(posterior: Any) -> tuple[Tensor, Tensor]:
    front = getattr(posterior, "front", None)
    if front is None or front.shape[1] < 2:
        raise InputError(
            "the rule hypervolume is for two or three objectives: give the campaign objectives=[Objective(...), ...], "
            "or take another rule."
        )
    if front.shape[1] > 3:
        raise InputError(
            f"the rule hypervolume is for two or three objectives, got {front.shape[1]}: take the rule thompson, which "
            "draws weights for them."
        )
    return front, posterior.reference


def _gain_at(gains: Gains, point: Tensor) -> Tensor:  # (d,) -> ()
    with torch.no_grad():
        return gains(point[None])[0, 0].detach().cpu()


def _best_row(pool: Any, gains: Gains, rows: Tensor, taken: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rows kept for a slot, the one that adds most and is no twin of one taken: features, gain, row."""
    rows = rows[rows >= 0]
    if taken:
        rows = rows[~torch.isin(rows, torch.as_tensor(pool.closed(torch.stack(taken))))]
    features = pool.rows(rows)
    with torch.no_grad():
        gain = gains(features)[0].detach().cpu()
    best = int(gain.argmax())
    return features[best : best + 1], gain[best], rows[best]

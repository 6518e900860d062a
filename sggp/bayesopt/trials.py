"""What a campaign measures: a place that was chosen, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["pending", "measured", "failed"]


@dataclass(frozen=True)
class Place:
    """Where to measure, as it is stored: a pool row, or a point (d,).

    Attributes:
        label: what the pool calls the row.
        key: what is there, whatever its row (`Pool.key`); None in a box, and where it is not known.
    """

    index: int | None = None
    x: tuple[float, ...] | None = None
    label: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Trial:
    """One measurement, asked for or attached.

    Attributes:
        id: number to `tell` or `fail` with.
        index: row in the pool, None in a box or for a molecule outside the pool.
        x: point (d,) as a tuple, None for a pool row.
        label: what the pool calls the row (its SMILES), None where it has no names.
        state: pending, measured or failed.
        value: the measurement, once measured.
        reason: why it failed, once failed.
        batch: number of the `ask` that made it; 0 for attached data.
        source: asked or attached.
        asked_at, told_at: UTC times, ISO 8601.
    """

    id: int
    index: int | None
    x: tuple[float, ...] | None
    label: str | None
    state: State
    value: float | None
    reason: str | None
    batch: int
    source: str
    asked_at: str
    told_at: str | None

    @property
    def smiles(self) -> str | None:
        """The label, under the name a molecule library gives it."""
        return self.label

"""A space of real inputs between bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Look, Paths, as_indices, maximise_box
from sggp.bayesopt.trials import Place, Trial
from sggp.checks import as_numbers, whole_number
from sggp.errors import InputError, ShapeError
from sggp.typing import Dtype


class Box:
    """All points between a lower and an upper bound per dimension.

    Args:
        bounds: (d, 2), one row ``[low, high]`` per dimension, finite, low < high.

    Raises:
        ShapeError: `bounds` is not (d, 2).
        InputError: a bound is no finite number, or a lower bound is not below its upper bound.

    Example:
        >>> Box([[0.0, 1.0], [-5.0, 10.0]]).dimension
        2
    """

    def __init__(self, bounds: Any) -> None:
        expected = "(d, 2), one row [low, high] of numbers per dimension, such as [[0.0, 1.0], [-5.0, 10.0]]"
        table = as_numbers(bounds, "bounds", expected).detach().clone().cpu()
        if table.ndim != 2 or table.shape[1] != 2 or table.shape[0] == 0:
            raise ShapeError(f"bounds must be {expected}; got shape {tuple(table.shape)}.")
        if not bool(torch.isfinite(table).all()):
            raise InputError("bounds must be finite: a search needs a lower and an upper end per dimension.")
        bad = (table[:, 0] >= table[:, 1]).nonzero().flatten().tolist()
        if bad:
            raise InputError(f"lower bound not below upper in dimension(s) {bad}: {table[bad].tolist()}.")
        self.bounds = table

    @property
    def dimension(self) -> int:
        """Number of inputs d."""
        return self.bounds.shape[0]

    @property
    def low(self) -> Tensor:
        """(d,) float64 lower bounds."""
        return self.bounds[:, 0]

    @property
    def width(self) -> Tensor:
        """(d,) float64 edge lengths."""
        return self.bounds[:, 1] - self.bounds[:, 0]

    @property
    def capacity(self) -> float:
        return math.inf

    @property
    def num_initial(self) -> int:
        return 2 * (self.dimension + 1)

    @property
    def names(self) -> list[str]:
        return [f"x{i}" for i in range(self.dimension)]

    @property
    def scaled(self) -> Box:
        """The unit cube."""
        return Box([[0.0, 1.0]] * self.dimension)

    def sample(self, count: int, *, generator: torch.Generator, dtype: Dtype = torch.float64) -> Tensor:
        """(count, d) points drawn uniformly from the box."""
        count = whole_number(count, "count", least=0)
        unit = torch.rand(count, self.dimension, generator=generator, dtype=torch.float64)
        return self.clip((self.low + unit * self.width).to(dtype))

    def clip(self, points: Tensor) -> Tensor:
        """(..., d) points moved to the nearest point of the box."""
        low, high = self.bounds.to(points.dtype).to(points.device).unbind(-1)
        return torch.minimum(torch.maximum(points, low), high)

    def to_unit(self, points: Tensor) -> Tensor:
        """(..., d) points of the box in the coordinates of the unit cube, float64."""
        return (self._points(points) - self.low) / self.width

    def from_unit(self, points: Tensor) -> Tensor:
        """(..., d) points of the unit cube in the coordinates of the box, float64."""
        return self.clip(self.low + self._points(points) * self.width)

    def _points(self, points: Any) -> Tensor:
        expected = f"(..., {self.dimension}) numbers"
        checked = as_numbers(points, "points", expected)
        if checked.shape[-1:] != (self.dimension,):
            raise ShapeError(f"points must be {expected}, got shape {tuple(checked.shape)}.")
        return checked

    def check(self, point: Any) -> Tensor:
        """One point as (d,) float64, refused when it has the wrong length or lies outside."""
        x = as_numbers(point, "a point of this box", f"{self.dimension} numbers").detach().cpu().flatten()
        if x.shape[0] != self.dimension:
            raise ShapeError(f"a point of this box has {self.dimension} coordinates, got {x.shape[0]}.")
        if not torch.equal(self.clip(x), x):
            raise InputError(f"point {x.tolist()} is outside the bounds {self.bounds.tolist()}.")
        return x

    def describe(self) -> dict[str, Any]:
        return {"kind": "box", "bounds": self.bounds.tolist()}

    def start(
        self, count: int, trials: Sequence[Trial], *, seed: int, generator: torch.Generator
    ) -> list[Place]:
        """The next points of the Sobol sequence that is scrambled by `seed`."""
        engine = torch.quasirandom.SobolEngine(self.dimension, scramble=True, seed=seed % 2**31)
        return self.places(engine.fast_forward(len(trials)).draw(count, dtype=torch.float64))

    def place(self, x: Any) -> Place:
        """A point (d,) inside the box."""
        return Place(x=tuple(self.check(x).tolist()))

    def places(self, choice: Tensor) -> list[Place]:
        """Points of the unit cube, as points of the box."""
        return [Place(x=tuple(point.tolist())) for point in self.from_unit(choice)]

    def features(self, trials: Sequence[Trial]) -> Tensor:
        """(n, d) points of the unit cube, float64."""
        return self.to_unit(torch.tensor([trial.x for trial in trials], dtype=torch.float64))

    def cells(self, trial: Trial) -> list[Any]:
        return list(trial.x or ())

    def maximise(self, paths: Paths, posterior: Any, look: Look) -> tuple[Tensor, Tensor]:
        """`maximise_box` near the points that the posterior was conditioned on; pending points change nothing."""
        if as_indices(look.exclude, None, what="exclude").numel():
            raise InputError("exclude names pool rows; a box has none: leave it empty.")
        return maximise_box(
            paths,
            self,
            generator=look.generator,
            search=look.search,
            maximize=look.maximize,
            near=_measured(posterior),
            lengthscale=_lengthscale(getattr(posterior, "kernel", None), self.dimension),
        )


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

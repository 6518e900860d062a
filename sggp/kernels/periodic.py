"""The periodic kernel on the fast engine: an RBF of points on circles."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from sggp.errors import ShapeError
from sggp.kernels.composite import Wrapper
from sggp.kernels.points import Points
from sggp.kernels.stationary import StationaryCovariance
from sggp.native.families import Profile

__all__ = ["PeriodicCovariance"]


class PeriodicCovariance(Wrapper):
    """k(x, z) = exp(−2 Σ_k sin²(π (x_k − z_k)/p_k)/ℓ_k), GPyTorch's `PeriodicKernel`, whose ℓ is not squared.

    Points at the angles 2πx_k/p_k of unit circles have chords of squared length 4 sin²(π δ_k/p_k), so this is an RBF
    of them with length scales √ℓ_k. What is left of x_k beyond whole periods is exact, however many they are, while
    GPyTorch takes differences from |a|² + |b|² − 2ab, whose rounding grows with the square of their number.

    Args:
        lengthscale, period: (d,) or () positive numbers.
        dtype, name: as of every `Covariance`.
    """

    def __init__(
        self, lengthscale: Tensor, period: Tensor, *, dtype: torch.dtype | None = None, name: str = ""
    ) -> None:
        chord = lengthscale.detach().double().reshape(-1).sqrt()
        chords = chord if len(chord) == 1 else chord.repeat(2)
        super().__init__(StationaryCovariance(Profile("rbf"), chords, dtype=dtype, name=name))
        self.period = period.detach().double().reshape(-1).clone()
        self.values = (len(chord), len(self.period))
        self.centres = self.shift_invariant = False  # rows that were rounded would lose their phases

    def _children(self, raw: Tensor, centre: Tensor | None) -> tuple[Points, ...]:
        d = raw.shape[1]
        if any(count not in (1, d) for count in self.values):
            raise ShapeError(
                f"{self.name} has {self.values[0]} length scales and {self.values[1]} periods; the rows have {d} "
                f"columns: set ard_num_dims={d}."
            )
        circles = self._on_circles(raw)
        points = self.inner.prepare(circles, circles.new_zeros(circles.shape[1]))
        return (points.astype(raw.dtype if raw.is_floating_point() else self.dtype or torch.float32),)

    def _on_circles(self, raw: Tensor) -> Tensor:  # (..., d) -> (..., 2·d) float64
        """Cosines, then sines, of the angles of the rows."""
        period = self.period.to(raw.device)
        angle = raw.double().fmod(period) * (2 * pi / period)
        return torch.cat([angle.cos(), angle.sin()], -1)

    def _small_blocks(self, x: Tensor) -> Tensor:
        return self.inner._small_blocks(self._on_circles(x))

"""The normal equation of a Bayesian linear model, by products only."""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.linear.design import Design
from sggp.linear.features import batches

__all__ = ["NormalEquation"]

_PROBES = 16


class NormalEquation:
    """H = Φ̃ᵀΦ̃/σ² + αI as an operator that any solver of products can use, and primal gradient descent too.

    It is a `LinearOperator`, and a `LeastSquaresOperator` whose observations are the data points: Φ̃ is the design, αI
    the penalty. With anchor δ = 0, `data_gradient` plus `penalty_estimate` is the minibatch gradient of the
    low-variance objective ½‖Φ̃z‖²/σ² + ½α‖z − θⁿ‖², whose right-hand side is r = αθⁿ.

    Args:
        design: Φ̃.
        noise_variance: σ² > 0.
        prior_precision: α > 0.
        generator: draws the probes of `design_norms` and `diagonal`.

    Cost:
        2·n·o·D entries a product, one epoch.
    """

    draws_features = True  # no column of the penalty is sampled either: it is known without noise

    def __init__(
        self, design: Design, noise_variance: float, prior_precision: float, generator: torch.Generator
    ) -> None:
        self.design = design
        self.sigma2, self.alpha = float(noise_variance), float(prior_precision)
        self.generator = generator
        self.shape = (design.num_weights, design.num_weights)
        self.dtype, self.device = design.features.dtype, design.features.device
        self.entries_per_epoch = self._entries(design.features.num_rows)  # 2·n·o·D, of one product
        self.entries_evaluated = 0
        self.require_noise()

    @property
    def noise_variance(self) -> Tensor:  # (n,)
        """σ² of every data point; B_i is part of the design."""
        rows = self.design.features.num_rows
        return torch.full((rows,), self.sigma2, dtype=torch.float64, device=self.device)

    def require_noise(self) -> None:
        """Raise `InputError` unless noise variance and prior precision are positive."""
        if not (0 < self.sigma2 < float("inf") and 0 < self.alpha < float("inf")):
            raise InputError(
                f"noise_variance and prior_precision must be positive, got {self.sigma2} and {self.alpha}."
            )

    def matmul(self, v: Tensor) -> Tensor:  # (D, s) -> (D, s)
        """H v; one epoch."""
        block = v[:, None] if v.ndim == 1 else v
        out = self.alpha * block
        for rows in batches(self.design.features):
            out = out + self.design.adjoint(self.design.apply(block, rows), rows) / self.sigma2
        self.entries_evaluated += self.entries_per_epoch
        return out[:, 0] if v.ndim == 1 else out

    def diagonal(self) -> Tensor:  # (D,)
        """An unbiased estimate of the diagonal of H from 16 probes; half an epoch."""
        self.entries_evaluated += self.entries_per_epoch // 2
        estimate = self.design.fisher_diagonal(_PROBES, self.generator) / self.sigma2 + self.alpha
        return estimate.to(self.dtype)

    def anchored_target(self, anchor: Tensor, gap: Tensor) -> Tensor:  # (D, s), (D, s) -> (D, s)
        """r − H δ, by a product unless δ is zero."""
        return gap - self.matmul(anchor) if bool(anchor.any()) else gap.clone()

    def data_gradient(
        self, rows: Tensor, u: Tensor, anchor: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(n/b) Φ̃_IᵀΦ̃_I(u − δ)/σ² − (r − Hδ) from the data points I = rows."""
        features = self.design.features
        total = torch.zeros_like(u)
        for part in rows.split(features.batch_size):
            total += self.design.adjoint(self.design.apply(u - anchor, part), part)
        self.entries_evaluated += self._entries(len(rows))
        return total * (features.num_rows / len(rows) / self.sigma2) - target, None

    def penalty_estimate(self, u: Tensor, num_features: int, generator: torch.Generator) -> Tensor:
        """αu, without noise."""
        return self.alpha * u

    def design_norms(self, rows: Tensor) -> Tensor:  # (b,) -> (b,)
        """Unbiased estimates of the squared norms of the blocks Φ̃_i, from 16 probes."""
        features = self.design.features
        probes = torch.randn(self.design.num_weights, _PROBES, generator=self.generator, dtype=torch.float64)
        probes = probes.to(device=self.device, dtype=self.dtype)
        parts = [self.design.apply(probes, part) for part in rows.split(features.batch_size)]
        self.entries_evaluated += self._entries(len(rows)) // 2
        return torch.cat([part.double().square().sum(1).mean(1) for part in parts])

    def cross_block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A block of αI in float64."""
        return self.alpha * (rows[:, None] == cols[None, :]).double()

    def kernel_diagonal(self) -> Tensor:  # (D,)
        """The diagonal of αI in float64."""
        return torch.full((self.design.num_weights,), self.alpha, dtype=torch.float64, device=self.device)

    def _entries(self, rows: int) -> int:
        return 2 * rows * self.design.features.num_outputs * self.design.num_weights

"""Right-hand sides z_j with E[z_j z_jᵀ] = H, made of the same draws whatever the hyperparameters, and their duals.

With φ the random features and C = ΦΦᵀ + Σ, z_j ~ N(0, C) given the features. For v_j = H⁻¹z_j and the dual
w_j = C⁻¹z_j, E[v_j w_jᵀ] = H⁻¹C C⁻¹ = H⁻¹: exactly, for any features and any number of them, where E[v_j v_jᵀ] is H⁻¹
on average over features only. All probes share one draw of the features, whose error therefore does not average out
over probes: on 3,000 rows of POL, with 2,048 features and 64 probes, it makes the error of the gradient four times that
of probes from N(0, H). With duals it is less than twice that, and falls with the number of probes
(`benchmarks/gradient.py`). They cost one Cholesky factor of the size of the features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sggp.errors import NoRandomFeatures
from sggp.hyperparameters.merged import MergedData
from sggp.linalg import cholesky
from sggp.posterior.data import Prior, draw_prior, seeded_features
from sggp.random import streams

__all__ = ["Probes"]

_BLOCK_BYTES = 64 * 2**20


class Probes:
    """s probes z_j = f⁰_j(X) + ε_j: prior draws by random features, plus noise.

    Features, weights and unit noise are drawn once. At other hyperparameters the same draws are re-parametrised
    (frequencies over the length scales, noise times its standard deviation), so that every z_j, and with it the
    estimate of the gradient, moves smoothly. Where a sum of kernels hands features from one term to another as its
    scales change, the draws of those terms jump; the estimate is right all the same.

    A kernel without random features has z_j ~ N(0, I) instead (`pathwise` is then False).

    Args:
        kernel: any GPyTorch kernel.
        data: the merged rows.
        num_probes: s. num_features: random features of the prior draws.
        need_features: refuse such a kernel.

    Raises:
        NoRandomFeatures: the kernel has none and they are needed.
    """

    def __init__(
        self,
        kernel: Any,
        data: MergedData,
        num_probes: int,
        num_features: int,
        generator: torch.Generator,
        *,
        need_features: bool = False,
    ) -> None:
        draw, eps, plain = streams(generator, "prior", "noise", "plain probes")
        self._data, self.num_features = data, num_features
        self._prior: Prior | None = None
        try:
            self._prior = draw_prior(kernel, data.x, num_probes, num_features, draw)
        except NoRandomFeatures:
            if need_features:
                raise
            self._plain = _normal(data.size, num_probes, plain).to(data.y.device)
        else:
            self._unit = _normal(data.n, num_probes, eps).to(data.y.device)

    @property
    def pathwise(self) -> bool:
        """Whether the probes are prior draws plus noise."""
        return self._prior is not None

    def prior(self, kernel: Any) -> Prior | None:
        """The prior draws under the kernel's present values."""
        if self._prior is None:
            return None
        old = self._prior
        features = seeded_features(kernel, old.num_features, self._data.x.shape[1], old.seed, old.centre)
        weights = old.weights
        if features.num_features != len(weights):  # a sum of kernels re-divides its features
            (again,) = streams(torch.Generator().manual_seed(old.seed), f"{features.num_features} weights")
            weights = _normal(features.num_features, weights.shape[1], again)
        return replace(old, features=features, weights=weights)

    def noise(self, row_noise: Tensor) -> Tensor:  # (n,) -> (n, s)
        """ε_j for every row before merging."""
        return row_noise.sqrt()[:, None] * self._unit

    def at(self, kernel: Any, row_noise: Tensor) -> Tensor:  # -> (g, s)
        """z_j under the kernel's present values and a noise variance for every row."""
        prior = self.prior(kernel)
        if prior is None:
            return self._plain
        paths = prior.features.apply(self._data.rows, prior.weights).double()
        return paths + self._data.means(self.noise(row_noise), row_noise)

    def duals(self, kernel: Any, row_noise: Tensor, z: Tensor) -> Tensor | None:  # (g, s) -> (g, s)
        """C⁻¹z_j; z_j itself for plain probes; None where a row has no noise, so that C has no inverse.

        Cost: g·p² + p³/3 flops and p² numbers for p features, held by blocks of rows; for g ≤ p, g²·p and g².
        """
        prior = self.prior(kernel)
        if prior is None:
            return z
        noise = self._data.groups.noise(row_noise)
        if not bool((noise > 0).all()):
            return None
        p = prior.features.num_features
        if len(z) <= p:
            phi = prior.features.phi(self._data.rows).double()
            covariance = phi @ phi.T + torch.diag_embed(noise)
            return torch.cholesky_solve(z, cholesky(covariance, "the probes' covariance"))
        # C⁻¹z = Σ⁻¹(z − Φ (I + ΦᵀΣ⁻¹Φ)⁻¹ ΦᵀΣ⁻¹z), by Woodbury's identity
        core = torch.eye(p, dtype=torch.float64, device=z.device)
        pulled = torch.zeros(p, z.shape[1], dtype=torch.float64, device=z.device)
        for rows in torch.arange(len(z), device=z.device).split(max(1, _BLOCK_BYTES // (8 * p))):
            phi = prior.features.phi(self._data.rows[rows]).double()
            weighted = (phi / noise[rows, None]).T
            core.addmm_(weighted, phi)
            pulled.addmm_(weighted, z[rows])
        fitted = torch.cholesky_solve(pulled, cholesky(core, "the probes' covariance"))
        return (z - prior.features.apply(self._data.rows, fitted).double()) / noise[:, None]


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

"""Noise variances that came with the rows, scaled and added to by what the data say: a·gᵢ + b."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from sggp.defaults import DIRECT_ROWS
from sggp.evidence.aside import Split, mean_and_error
from sggp.evidence.leave_one_out import LeftOut, Observed, leave_out
from sggp.evidence.spread import NoiseModel
from sggp.evidence.tails import log_density
from sggp.kernels import as_covariance
from sggp.posterior.variance import nearest_rows
from sggp.predictive import PredictiveDistribution

_WHOLE = 600  # rows up to which the likelihood is that of all of them
_BLOCKS, _BLOCK_ROWS = 16, 256
_JUDGED = 2000
_TWO_ERRORS = 2.0
_RANGE = 1e6  # how much smaller or larger than the noise of the start either part may become
_PROGRESS = 1e-6  # of the likelihood a row: a search that wins less is over
_REFUSED = 1e300  # a step to where there is no factor


@dataclass(frozen=True)
class Adjustment:
    """Noise variances are `factor` times those given plus `added`, in squared units of the targets they came with.

    Attributes:
        gain: in log density of left-out rows over the noise as given, nats a row. error: its standard error.
        worse: growth of the CRPS, and its standard error. new: the gain on inputs set aside, where most rows repeat
            one, else None.
    """

    factor: float = 1.0
    added: float = 0.0
    gain: float = 0.0
    error: float = 0.0
    worse: tuple[float, float] = (0.0, 0.0)
    new: float | None = None

    def of(self, given: Tensor) -> Tensor:
        """Noise variances for those given."""
        return NoiseModel(factor=self.factor, added=self.added).adjusted(given)

    def beside(self, given: Scores, found: Scores) -> Adjustment:
        """The same with what it gains over the noise as given, by scores of the same left-out rows."""
        gain, error = mean_and_error(found.log_density - given.log_density)
        new = None if given.new is None or found.new is None else found.new - given.new
        return replace(self, gain=gain, error=error, worse=mean_and_error(found.crps - given.crps), new=new)

    def noise_model(self, unit: float) -> NoiseModel:
        """What a fit tells of it, the addition in squared units of y, of which one of the model's is `unit`."""
        gain = f"{self.gain:+.4f} ± {self.error:.4f} nats a left-out row"
        if not self.wins:
            return NoiseModel(reason=f"the noise as given: nothing else gains enough ({gain})")
        told = f"{self.factor:.4g} times the noise variance given, and {self.added * unit * unit:.4g} more"
        return NoiseModel(factor=self.factor, added=self.added, reason=f"{told}: {gain} over that as given")

    @property
    def wins(self) -> bool:
        """Whether it gains log density by two standard errors, at no cost in CRPS beyond one; and for new inputs."""
        known = self.gain > _TWO_ERRORS * self.error and self.worse[0] < self.worse[1]
        return known and (self.new is None or self.new > 0)


def learn_adjustment(
    observed: Observed, given: Tensor, generator: torch.Generator, start: Adjustment | None = None
) -> Adjustment:
    """The factor and the addition under which the targets are most likely, the output scale of f free.

    By the marginal likelihood of up to 600 rows; of more, by the sum over sixteen random rows with their 255 nearest
    others each: at full density, where noise and function can be told apart.

    Args:
        observed: one target, (n, 1), with the noise to start from. given: (n,) variances, not negative.
        start: where the search starts; None for from three shares of the noise.

    Cost: some ten factors for each start of 600 rows, or of sixteen times 256.
    """
    likelihood = _Likelihood.of(observed, given, generator)
    total = float(observed.positive_noise(1.0).mean())
    typical = float(given[given > 0].median())
    unit = np.array([total / typical, total, 1.0])
    box = [(-np.log(_RANGE), np.log(_RANGE))] * 2 + [(-3.0, 3.0)]
    starts = [[share, 1.0 - share, 1.0] for share in (0.5, 0.98, 0.02)]  # of the noise that those given make
    if start is not None:
        starts = [[max(start.factor / unit[0], 1 / _RANGE), max(start.added / unit[1], 1 / _RANGE), 1.0]]
    best: optimize.OptimizeResult | None = None
    for begin in starts:
        found = optimize.minimize(
            likelihood.loss(unit),
            np.log(begin),
            jac=True,
            method="L-BFGS-B",
            bounds=box,
            options={"ftol": _PROGRESS},
        )
        if best is None or found.fun < best.fun - 1e-6:
            best = found
    factor, added = (np.exp(best.x) * unit)[:2] if best is not None else (1.0, 0.0)
    return Adjustment(float(factor), float(added))


@dataclass(frozen=True)
class _Likelihood:
    """Blocks of rows: Gram matrices (b, m, m), residuals (b, m), given noise (b, m)."""

    gram: Tensor
    residual: Tensor
    given: Tensor

    @classmethod
    def of(cls, observed: Observed, given: Tensor, generator: torch.Generator) -> _Likelihood:
        covariance = as_covariance(observed.kernel, dtype=torch.float64)
        n = len(observed.x)
        index = torch.arange(n)[None]
        if n > _WHOLE:
            centres = torch.randperm(n, generator=generator)[:_BLOCKS]
            index = nearest_rows(covariance, covariance.prepare(observed.x), observed.x[centres], _BLOCK_ROWS)
        gram = covariance.small_blocks(observed.x[index])
        return cls(gram, observed.residual[index, 0], given.double()[index])

    def loss(self, unit: np.ndarray) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        """The negative log likelihood a row and its gradient in the logarithms of factor, addition and scale of K.

        With H = cK + D, α = H⁻¹r: ∂/∂Dᵢᵢ = ½(αᵢ² − (H⁻¹)ᵢᵢ), and c ∂/∂c = ½(rᵀα − Σ αᵢ²Dᵢᵢ − m + Σ (H⁻¹)ᵢᵢDᵢᵢ).
        """
        count = self.residual.numel()
        least = 1e-12 * float(self.gram.diagonal(dim1=1, dim2=2).mean())

        def value(u: np.ndarray) -> tuple[float, np.ndarray]:
            factor, added, scale = np.exp(u) * unit
            noise = (factor * self.given + added).clamp_min(least)
            matrix = scale * self.gram
            matrix.diagonal(dim1=1, dim2=2).add_(noise)
            lower, wrong = torch.linalg.cholesky_ex(matrix)
            if bool(wrong.any()):
                return _REFUSED, np.zeros(3)
            inverse = torch.cholesky_inverse(lower)
            alpha = (inverse @ self.residual[:, :, None])[:, :, 0]
            diagonal = inverse.diagonal(dim1=1, dim2=2)
            quadratic = float((self.residual * alpha).sum())
            logs = float(lower.diagonal(dim1=1, dim2=2).log().sum())
            slope = 0.5 * (alpha.square() - diagonal)
            inner = float((slope * noise).sum())
            gradient = [
                factor * float((slope * self.given).sum()),
                added * float(slope.sum()),
                0.5 * (quadratic - count) - inner,
            ]
            return (0.5 * quadratic + logs) / count, -np.array(gradient) / count

        return value


@dataclass(frozen=True)
class Scores:
    """Of left-out rows, (m,) each; and the mean log density at inputs set aside, where most rows repeat one."""

    log_density: np.ndarray
    crps: np.ndarray
    new: float | None = None

    @property
    def level(self) -> float:
        """Mean log density, at new inputs where those were looked at."""
        return float(self.log_density.mean()) if self.new is None else self.new


def rows_to_judge(rows: int, generator: torch.Generator) -> Tensor:
    """All of up to 3,000 rows, 2,000 random ones of more."""
    return torch.arange(rows) if rows <= DIRECT_ROWS else torch.randperm(rows, generator=generator)[:_JUDGED]


def scored(observed: Observed, rows: Tensor, aside: Sequence[Split] = ()) -> Scores:
    """Log density and CRPS of some rows left out, each with its own noise; and of inputs set aside."""
    density, crps = _of(observed, rows, leave_out(observed, rows))
    parts = [_of(observed, part, leave_out(observed, part, given=others))[0] for part, others in aside]
    return Scores(density, crps, float(np.concatenate(parts).mean()) if parts else None)


def _of(observed: Observed, rows: Tensor, left: LeftOut) -> tuple[np.ndarray, np.ndarray]:
    error = (observed.residual[rows, 0] - left.mean[:, 0]).numpy()
    variance = np.maximum(left.variance.numpy(), 1e-300)
    density = log_density(error**2 / variance, 0.0, np.inf) - 0.5 * np.log(variance)
    law = PredictiveDistribution(np.zeros(len(error)), np.sqrt(variance))
    return density, law.crps(error)

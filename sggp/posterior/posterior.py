"""The posterior: mean, variance, samples, and what is needed to go on from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.kernels.covariance import Covariance, Points
from sggp.operators import KernelOperator
from sggp.posterior.data import Data, Prior, check_data
from sggp.posterior.merge import Groups
from sggp.posterior.paths import PathwiseSamples, check_points
from sggp.posterior.variance import combine, combined_error, local_control
from sggp.random import as_generator, streams
from sggp.solvers import Cholesky, Solution
from sggp.solvers.cholesky import factorise, substitute
from sggp.typing import Seed

if TYPE_CHECKING:
    from sggp.posterior.conditioning import Settings

__all__ = ["Posterior"]

_SOLVE_BYTES = 512 * 2**20
_CONTROL_ROWS = 64
"""Nearest rows of the local posterior that sharpens sampled variances."""
_EXCESS = 0.05
"""Share by which a variance found by solving may exceed the true one at worst; the bound is loose by far."""
_LEAST_VARIANCE = 1e-8
"""Share of the prior variance below which a variance need not be resolved further."""
_LEAST_TOLERANCE = 1e-10
_ROUNDS = 3


class Posterior:
    """What is known of f after seeing data; made by `sggp.condition`.

    Attributes:
        kernel: the GPyTorch kernel.
        x: (g, d) distinct inputs. noise_variance: (g,) their merged noise.
        prior_mean: μ.
        points: the rows that weights belong to: the centres where there are any, else x.
        solution: the `Solution` of the solve; column 0 is the mean, the others are the samples.
        samples: the `PathwiseSamples`.
    """

    def __init__(
        self,
        *,
        kernel: Any,
        covariance: Covariance,
        data: Data,
        groups: Groups,
        noise_variance: Tensor,
        mean: float,
        prior: Prior | None,
        solution: Solution,
        settings: Settings,
    ) -> None:
        self.kernel = kernel
        self.covariance = covariance
        self.data = data
        self.groups = groups
        self.noise_variance = noise_variance
        self.prior_mean = mean
        self.prior = prior
        self.solution = solution
        self.settings = settings
        self._x = data.x[groups.first]
        self.points: Points = covariance.prepare(self._x if settings.centres is None else settings.centres)
        self._factor: tuple[Tensor, float] | None = None
        self._sample_targets: Tensor | None = None

    # what was given -------------------------------------------------------------------------------------------------

    @property
    def x(self) -> Tensor:  # (g, d)
        """Distinct inputs."""
        return self._x

    @property
    def centres(self) -> Tensor | None:  # (m, d)
        """The inducing points, None where every distinct input is one."""
        return self.settings.centres

    @property
    def y(self) -> Tensor:  # (g,)
        """Targets, repeats averaged."""
        return self.groups.mean(self.data.y[:, None], self.data.noise_variance)[:, 0]

    @property
    def mean_weights(self) -> Tensor:  # (g,)
        """α_mean."""
        return self.solution.x.double()[:, 0]

    @property
    def num_samples(self) -> int:
        """s."""
        return self.solution.x.shape[1] - 1

    @property
    def samples(self) -> PathwiseSamples:
        """The posterior samples, as functions.

        Raises:
            InputError: the posterior was made with num_samples=0.
        """
        if self.prior is None:
            raise InputError(
                "this posterior has no samples: condition with num_samples > 0, or use more_samples(k)."
            )
        weights = self.solution.x.double()
        return PathwiseSamples(
            covariance=self.covariance,
            x=self.points,
            features=self.prior.features,
            weights=self.prior.weights,
            update=weights[:, :1] - weights[:, 1:],
            mean=self.prior_mean,
        )

    def __repr__(self) -> str:
        centres = "" if self.centres is None else f"centres={len(self.centres)}, "
        return (
            f"Posterior(n={len(self.data.y)}, distinct={len(self.x)}, {centres}s={self.num_samples}, "
            f"{self.solution!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_factor": None, "_sample_targets": None}

    # predictions ----------------------------------------------------------------------------------------------------

    def mean(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q)
        """μ + K(points, x)α_mean; differentiable in the points.

        Cost: q·n entries, in blocks of bounded memory.
        """
        points = check_points(points, self.x.shape[1], 2)
        flat = points.reshape(-1, points.shape[-1])
        weights = self.mean_weights.to(self._dtype(flat))
        return (self.covariance.matmul(flat, self.points, weights[:, None])[:, 0] + self.prior_mean).reshape(
            points.shape[:-1]
        )

    def variance(
        self,
        points: Tensor,
        observation_noise: bool | float | Tensor = False,
        method: Literal["samples", "solve"] = "samples",
    ) -> Tensor:  # (..., q, d) -> (..., q)
        """Posterior variance, never negative.

        Args:
            points: (..., q, d).
            observation_noise: True adds the noise variance (a scalar one); a number or (..., q) adds that.
            method: "samples" takes the mean square of the zero-mean samples, sharpened by the exact variance given the
                nearest rows (`sggp.posterior.variance`); its standard error, `variance_error`, is at most √(2/s) of it.
                "solve" is exact to second order in the solver's tolerance, and never below the true value, by one extra
                column per point.

        Raises:
            InputError: no samples, an unknown method, or observation_noise=True with per-point noise.

        Cost:
            "samples": 2·q·(n + p)·s flops, and a small system of 64 rows per point. "solve": one block solve of q
            columns and one product with K in float64.
        """
        points = check_points(points, self.x.shape[1], 2)
        flat = points.reshape(-1, points.shape[-1])
        if method == "samples":
            value = self._sampled_variance(flat)[0]
        elif method == "solve":
            value = self._solved_variance(flat)
        else:
            raise InputError(f'method must be "samples" or "solve", got {method!r}.')
        return value.reshape(points.shape[:-1]) + self._added_noise(observation_noise)

    def variance_error(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q)
        """Monte Carlo standard error of `variance(points)`, the samples being Gaussian: at most √(2/s) times it."""
        points = check_points(points, self.x.shape[1], 2)
        return self._sampled_variance(points.reshape(-1, points.shape[-1]))[1].reshape(points.shape[:-1])

    def covariance_matrix(self, points: Tensor) -> Tensor:  # (q, d) -> (q, q)
        """Exact joint posterior covariance of a few points, by one extra column per point."""
        flat = check_points(points, self.x.shape[1], 2)
        cross, weights, product = self._weights(flat)
        joint = self.covariance.block(flat).double() - weights.T @ (2 * cross - product)
        return (0.5 * (joint + joint.T)).to(self._dtype(flat))

    def _sampled_variance(self, flat: Tensor) -> tuple[Tensor, Tensor]:  # (q, d) -> (q,), (q,)
        """The variance from the samples and its standard error."""
        samples = self.samples
        prior = samples.prior(flat)
        update = -self.solution.x.double()[:, 1:].to(self._dtype(flat))
        deviations = (prior + self.covariance.matmul(flat, self.points, update)).double()
        plain = deviations.square().mean(1)
        if self.centres is not None:  # the local posterior is a control only for the exact one
            error = plain * (2.0 / self.num_samples) ** 0.5
            return plain.to(self._dtype(flat)), error.to(self._dtype(flat))
        total, local = local_control(
            self.covariance, self.points, self.noise_variance, self._targets(), flat, prior, _CONTROL_ROWS
        )
        value = combine(plain, (local - deviations).square().mean(1), total)
        error = combined_error(value, total, self.num_samples)
        return value.to(self._dtype(flat)), error.to(self._dtype(flat))

    def _targets(self) -> Tensor:  # (g, s)
        """The right-hand sides of the samples, f⁰(x) + ε."""
        if self._sample_targets is None:
            noise = self.groups.mean(self.data.noise, self.data.noise_variance)
            self._sample_targets = self.samples.prior(self.x).double() + noise.double()
        return self._sample_targets

    def _solved_variance(self, flat: Tensor) -> Tensor:
        width = max(1, int(_SOLVE_BYTES // (64 * len(self.points))))
        parts = []
        for tile in flat.split(width):
            cross, weights, product = self._weights(tile)
            # the variance of f - wᵀy, whatever w: never below the posterior's, and equal to it to second order in w
            explained = (weights * (2 * cross - product)).sum(0)
            parts.append((self.covariance.diagonal(tile).double() - explained).clamp_min(0))
        return torch.cat(parts).to(self._dtype(flat)) if parts else flat.new_zeros(0)

    def _weights(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (q, d) -> (n, q) three times
        """k = K(x, flat), w ≈ H⁻¹k and Hw, where w's excess variance ‖k − Hw‖²_{H⁻¹} is at most 5 % of the variance."""
        cross = self.covariance.block(self.points, self.covariance.prepare(flat, self.points.centre)).double()
        operator, own = self._operator(), self.covariance.diagonal(flat).double()
        solver = self.settings.solver_for(len(self.points))
        if isinstance(solver, Cholesky):
            if self._factor is None:
                self._factor = factorise(operator)
            weights = substitute(self._factor[0], cross)
            return cross, weights, operator.matmul_wide(weights)
        # ‖r‖²_{H⁻¹} ≤ ‖r‖²/σ²; the variance given the nearest rows tells beforehand how small the residual has to be
        none = cross.new_zeros(len(self.points), 0)
        local = local_control(
            self.covariance,
            self.points,
            self.noise_variance,
            none,
            flat,
            cross.new_zeros(len(flat), 0),
            _CONTROL_ROWS,
        )[0]
        start, least = None, float(self.noise_variance.min())
        asked = self.settings.tolerances(0, True)
        allowed = _EXCESS * least * (0.5 * local).clamp_min(_LEAST_VARIANCE * own)
        for _ in range(_ROUNDS):
            tolerance = (allowed.sqrt() / cross.norm(dim=0)).cpu().clamp_min(_LEAST_TOLERANCE).minimum(asked)
            weights = solver.solve(
                operator,
                cross,
                start,
                tolerance=tolerance,
                generator=0,
                on_failure=self.settings.on_failure,
            ).x.double()
            product = operator.matmul_wide(weights)
            variance = own - (weights * (2 * cross - product)).sum(0)
            allowed = _EXCESS * least * variance.clamp_min(_LEAST_VARIANCE * own)
            if bool(((cross - product).square().sum(0) <= 2 * allowed).all()):
                break
            start = weights
        return cross, weights, product

    def _operator(self) -> KernelOperator:
        if self.centres is not None:
            raise InputError(
                "variances and covariances by solving are those of the exact Gaussian process, which this posterior on "
                f'{len(self.centres)} centres is not: use variance(method="samples"), or condition without centres.'
            )
        return KernelOperator(
            self.kernel,
            self.x,
            self.noise_variance,
            dtype=self.settings.dtype,
            memory_budget=self.settings.memory_budget,
        )

    def _added_noise(self, observation_noise: bool | float | Tensor) -> float | Tensor:
        if observation_noise is False:
            return 0.0
        if observation_noise is not True:
            return observation_noise
        noise = self.data.noise_variance
        if float(noise.max()) != float(noise.min()):
            raise InputError(
                "the noise differs between observations, so a new observation's is not known: pass "
                "observation_noise as a number or a tensor of variances."
            )
        return float(noise[0])

    def _dtype(self, points: Tensor) -> torch.dtype:
        return points.dtype if points.is_floating_point() else self.settings.dtype

    # going on -------------------------------------------------------------------------------------------------------

    def update(
        self, x: Tensor, y: Tensor, *, noise_variance: float | Tensor | None = None, generator: Seed = None
    ) -> Posterior:
        """The posterior after more data: same hyperparameters, prior functions and centres, warm-started solves.

        Args:
            x: (m, d), y: (m,) the new observations; repeats of known inputs are fine.
            noise_variance: theirs; default the scalar noise of the data so far.
            generator: for the noise drawn for the new rows, and the solver.
        """
        from sggp.posterior.conditioning import draw_noise, solve_posterior

        noise = self._added_noise(True) if noise_variance is None else noise_variance
        x, y, noise = check_data(x, y, noise, self.x.shape[1])
        if x.dtype != self.data.x.dtype:
            x = x.to(self.data.x.dtype)
        eps, solve = streams(as_generator(generator), "noise", "solver")
        data = self.data.joined(Data(x, y, noise, draw_noise(noise, self.num_samples, eps)))
        groups = data.groups()
        # groups are numbered by first appearance, so the old ones keep their numbers; centres stay as they are
        start = torch.zeros(
            len(groups.first if self.centres is None else self.points),
            self.solution.x.shape[1],
            dtype=self.solution.x.dtype,
            device=x.device,
        )
        start[: len(self.points)] = torch.nan_to_num(self.solution.x)
        return solve_posterior(self.kernel, data, self.prior_mean, self.prior, self.settings, start, solve)

    def more_samples(self, num_samples: int, generator: Seed = None) -> PathwiseSamples:
        """Further samples, independent of the first ones: fresh features and one more block of solves."""
        from sggp.posterior.conditioning import more_samples

        return more_samples(self, num_samples, generator)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posterior to one file, without pickle: see `sggp.posterior.storage`."""
        from sggp.posterior.storage import save

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], *, kernel: Any = None) -> Posterior:
        """Read what `save` wrote; `kernel` is needed only for kernels that cannot be described by their values."""
        from sggp.posterior.storage import load

        return load(path, kernel=kernel)

"""The posterior: mean, variance, samples, and what is needed to go on from it."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from sggp.arrays import real_numbers
from sggp.autograd import undisturbed
from sggp.checks import one_of, whole_number
from sggp.errors import DtypeError, InputError, ShapeError, SlowVariance
from sggp.kernels import as_covariance
from sggp.kernels.covariance import Points
from sggp.operators.fixed import FixedProduct
from sggp.posterior import storage
from sggp.posterior.data import Data, Prior, draw_prior
from sggp.posterior.paths import PathwiseSamples, check_points, promoted
from sggp.posterior.query_weights import QueryWeights
from sggp.posterior.solving import Process, SolveOptions, check_solver_argument, working_precision
from sggp.posterior.variance import SampledVariance
from sggp.random import as_generator, streams
from sggp.solvers import Solution, Solver
from sggp.typing import Seed

_SLOW_ENTRIES = 1e12
"""Queries times rows squared, from which on exact variances by iterations are some minutes of two cores."""


def _tell_if_slow(queries: int, rows: int) -> None:
    if queries * rows**2 >= _SLOW_ENTRIES:
        warnings.warn(
            f"{queries:,} exact variances of {rows:,} rows take as many solves, all together the work of some "
            f"{max(1, queries // 2):,} products with K. Fit with samples (num_samples=64), and variances come from "
            'these, or ask for fewer points; method="solve" asks for exact ones without this warning.',
            SlowVariance,
            stacklevel=4,
        )


class Posterior:
    """What is known of f after seeing data; made by `sggp.condition`.

    Attributes:
        kernel: the GPyTorch kernel.
        x: (g, d) distinct inputs. noise_variance: (g,) their merged noise.
        prior_mean: μ.
        points: the rows that weights belong to: the centres where there are any, else x.
        process: kernel, prior mean, prior functions and options of solving; they stay when data are added.
        data: the observations. covariance: the kernel's evaluator.
        precision: least one of products with the weights; predictions have the dtype of the points.
        solution: the `Solution` of the solve; column 0 is the mean, the others are the samples.
        samples: the `PathwiseSamples`.
    """

    def __init__(self, process: Process, data: Data, solution: Solution) -> None:
        self.process, self.data, self.solution = process, data, solution
        rows, floating = data.rows if self.centres is None else self.centres, data.x.is_floating_point()
        dtype = None if floating else process.options.dtype
        self.covariance = as_covariance(process.kernel, dtype=dtype)
        self.points: Points = self.covariance.prepare(rows)
        scale = float(self.covariance.diagonal(self.points).max())
        self.precision = working_precision(process, data, solution, scale)
        if dtype == torch.float32 != self.precision:  # integers have no precision of their own
            self.covariance = as_covariance(process.kernel, dtype=self.precision)
            self.points = self.covariance.prepare(rows)
        self.error, self.sample_error = process.prediction_errors(data, solution)
        self._mean_product = FixedProduct(
            self.covariance, self.points, self.mean_weights[:, None], self.error
        )
        self._samples: PathwiseSamples | None = None
        self._query_weights = QueryWeights(process, data, self.covariance, self.points)
        self._sampled: SampledVariance | None = None

    @classmethod
    def from_weights(
        cls,
        process: Process,
        data: Data,
        weights: Tensor,
        generator: torch.Generator,
        *,
        solver: Solver | None = None,
    ) -> Posterior:
        """The posterior whose weights somebody has solved for: they are measured, and the solve goes on if it must.

        Args:
            process, data: what the weights are of.
            weights: (g, 1 + s) of the mean and the samples.
            generator: of the solve.
            solver: for this solve only; None takes that of the process.
        """
        options = process.options if solver is None else replace(process.options, solver=solver)
        solution = replace(process, options=options).solve(data, generator, weights)
        return cls(process, data, solution)

    # what was given -------------------------------------------------------------------------------------------------

    @property
    def kernel(self) -> Any:
        return self.process.kernel

    @property
    def prior_mean(self) -> float:
        return self.process.mean

    @property
    def prior(self) -> Prior | None:
        """The prior functions behind the samples."""
        return self.process.prior

    @property
    def options(self) -> SolveOptions:
        return self.process.options

    @property
    def x(self) -> Tensor:  # (g, d)
        return self.data.rows

    @property
    def noise_variance(self) -> Tensor:  # (g,)
        return self.data.merged_noise

    @property
    def centres(self) -> Tensor | None:  # (m, d)
        """The inducing points, None where every distinct input is one."""
        return self.options.centres

    @property
    def y(self) -> Tensor:  # (g,)
        """Targets, repeats averaged."""
        return self.data.merged(self.data.y[:, None])[:, 0]

    @property
    def mean_weights(self) -> Tensor:  # (g,)
        """α_mean."""
        return self.solution.x.double()[:, 0]

    @property
    def num_samples(self) -> int:
        """s."""
        return self.solution.x.shape[1] - 1

    @property
    def direct(self) -> bool:
        """Whether `variance` and `covariance_matrix` use a Cholesky factor and need no iterative solve."""
        return self._query_weights.direct

    @property
    def factorises(self) -> bool:
        """Whether a Cholesky factor solves, so that exact variances share one."""
        return self._query_weights.factorises

    @property
    def samples(self) -> PathwiseSamples:
        """The posterior samples, as functions; InputError where it was made with num_samples=0."""
        if self.prior is None:
            raise InputError("no samples here: condition with num_samples > 0, or use more_samples(k).")
        if self._samples is None:
            with undisturbed():
                self._samples = self._paths(self.prior, self.solution.x.double()[:, 1:])
        return self._samples

    def _paths(self, prior: Prior, weights: Tensor) -> PathwiseSamples:
        """The prior functions moved to the data by their solved weights, (m, s)."""
        return PathwiseSamples(
            covariance=self.covariance,
            x=self.points,
            features=prior.features,
            weights=prior.weights,
            update=self.mean_weights[:, None] - weights,
            mean=self.prior_mean,
            precision=self.precision,
            error=self.sample_error,
        )

    def __repr__(self) -> str:
        centres = "" if self.centres is None else f"centres={len(self.centres)}, "
        return (
            f"Posterior(n={len(self.data.y)}, distinct={len(self.x)}, {centres}s={self.num_samples}, "
            f"{self.solution!r})"
        )

    def share(self, other: Posterior) -> None:
        """Use the factor of another posterior of the same inputs, kernel and noise, which is then made once."""
        self._query_weights = other._query_weights

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sampled": None}

    # predictions ----------------------------------------------------------------------------------------------------

    def mean(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q)
        """μ + K(points, x)α_mean; differentiable in the points.

        Cost: q·n entries, in blocks of bounded memory.
        """
        points, flat = self._flat(points)
        values = self._mean_product(flat)[:, 0] + self.prior_mean
        return self._shaped(values, points)

    def variance(
        self,
        points: Tensor,
        observation_noise: bool | float | Tensor = False,
        method: Literal["auto", "samples", "solve"] = "auto",
    ) -> Tensor:  # (..., q, d) -> (..., q)
        """Posterior variance, never negative; differentiable in the points.

        Args:
            points: (..., q, d).
            observation_noise: True adds the noise variance (a scalar one); a number or (..., q) adds that.
            method: "auto" solves where that is cheap, by the Cholesky factor of up to 3,000 distinct rows without
                centres, or where there are no samples; elsewhere it takes samples. "samples" is the mean square of the
                zero-mean samples, sharpened by the exact variance given the nearest rows (`sggp.posterior.variance`);
                its standard error, `variance_error`, is at most √(2/s) of it. Where many points are asked for, what is
                given to one depends, within that error, on those beside it; of very many in at most three columns most
                are interpolated, right to a quarter of that error. "solve" is exact: to rounding by a
                factor, else to second order in the solver's tolerance, and not below the true value.

        Raises:
            InputError: no samples, an unknown method, or observation_noise=True with per-point noise.

        Cost:
            "samples": 2·q·(n + p)·s flops, and a small system of 64 rows per point. "solve": n²·q flops by the factor,
            kept from the first call on; else one block solve of q columns and a product with K in float64. Either in
            tiles of bounded memory, derivatives included.
        """
        return self._variance_beside(self.mean_weights[:, None][:, :0], points, observation_noise, method)[1]

    def mean_and_variance(
        self,
        points: Tensor,
        observation_noise: bool | float | Tensor = False,
        method: Literal["auto", "samples", "solve", "bound"] = "auto",
    ) -> tuple[Tensor, Tensor]:  # (..., q, d) -> (..., q) twice
        """`mean` and `variance` at the same points, of one evaluation of K(points, x).

        The arguments are those of `variance`, and so are the errors and, but for q·n further flops, the cost. The mean
        is that of `mean` to rounding, or to what far fields may add. "bound" gives no variance but what it cannot
        exceed, that given 512 of the rows: at the cost of a mean, so that only points that may matter have to be solved
        for.
        """
        return self._variance_beside(self.mean_weights[:, None], points, observation_noise, method)

    def _variance_beside(
        self, weights: Tensor, points: Tensor, observation_noise: bool | float | Tensor, method: str
    ) -> tuple[Tensor, Tensor]:
        """μ + Σ of the columns of K(points, x)·weights, (m, c), and the variance."""
        points, flat = self._flat(points)
        one_of(method, "method", ("auto", "samples", "solve", "bound"))
        noise = self._added_noise(observation_noise, points.shape[:-1])
        if method == "auto":
            method = "solve" if self._query_weights.direct or self.prior is None else "samples"
            if method == "solve" and not self.factorises:
                _tell_if_slow(len(flat), len(self.points))
        if method == "samples":
            products, variance, _ = self._sampled_variance(flat, weights)
        elif method == "bound":
            products, variance = self._query_weights.bounded(flat, weights)
        else:
            products, variance = self._query_weights.variance(flat, weights)
        value = self._shaped(variance, points)
        value = value + (noise.to(value) if isinstance(noise, Tensor) else noise)
        return self._shaped(products.sum(1) + self.prior_mean, points), value

    def variance_error(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q)
        """Monte Carlo standard error of `variance(points, method="samples")`: at most √(2/s) times it."""
        points, flat = self._flat(points)
        return self._shaped(self._sampled_variance(flat, self.mean_weights[:, None][:, :0])[2], points)

    def covariance_matrix(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q, q)
        """Exact joint posterior covariance of the q points of each batch; differentiable in the points.

        Cost:
            that of `variance(points, method="solve")`, some q² entries and n·q² flops for each batch. The result, and
            under autograd what it came from, is held in memory.
        """
        points, flat = self._flat(points)
        joint = self._query_weights.covariance_matrices(flat, points.shape[-2])
        return joint.to(self._dtype(points)).reshape(*points.shape[:-1], points.shape[-2])

    def _sampled_variance(self, flat: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        if self._sampled is None:
            noise = None if self.centres is not None else self.noise_variance
            with undisturbed():
                targets = self.samples.prior(self.x).double() + self.data.merged(self.data.noise).double()
                solved = self.solution.x.double()[:, 1:]
                self._sampled = SampledVariance(self.samples, self._mean_product, solved, noise, targets)
        return self._sampled(flat, weights)

    def _added_noise(self, observation_noise: Any, shape: torch.Size) -> float | Tensor:
        if observation_noise is False:
            return 0.0
        if observation_noise is True:
            return self.data.shared_noise("observation_noise")
        expected = f"True, False, a number or {tuple(shape)} of them, variances in squared units of y"
        noise = real_numbers(observation_noise, "observation_noise", expected)
        if not bool((noise >= 0).all()) or not bool(torch.isfinite(noise).all()):
            raise InputError(f"observation_noise must be {expected}, finite and not negative.")
        if noise.numel() == 1:
            return float(noise)
        if noise.shape != shape[-noise.ndim :]:
            raise ShapeError(f"observation_noise must be {expected}; got shape {tuple(noise.shape)}.")
        return observation_noise if isinstance(observation_noise, Tensor) else noise

    def _flat(self, points: Any) -> tuple[Tensor, Tensor]:  # (..., q, d) -> itself, (..q, d)
        """The points, checked, and as rows in the precision that products with the weights need."""
        points = check_points(points, self.x.shape[1], 2)
        return points, promoted(points.reshape(-1, points.shape[-1]), self.precision)

    def _shaped(self, values: Tensor, points: Tensor) -> Tensor:  # (..q,), (..., q, d) -> (..., q)
        return values.to(self._dtype(points)).reshape(points.shape[:-1])

    def _dtype(self, points: Tensor) -> torch.dtype:
        return points.dtype if points.is_floating_point() else self.options.dtype

    # more data, more samples, files ---------------------------------------------------------------------------------

    @undisturbed()
    def update(
        self, x: Tensor, y: Tensor, *, noise_variance: float | Tensor | None = None, generator: Seed = None
    ) -> Posterior:
        """The posterior after more data: same hyperparameters, prior functions and centres, warm-started solves.

        Args:
            x: (m, d), y: (m,) the new observations; repeats of known inputs are fine.
            noise_variance: theirs; default the scalar noise of the data so far.
            generator: for the noise drawn for the new rows, and the solver.

        Raises:
            ShapeError, DtypeError, InputError: the data cannot be used, or are of another kind than those so far.
        """
        noise = self.data.shared_noise("noise_variance") if noise_variance is None else noise_variance
        new = Data.checked(x, y, noise, dimension=self.x.shape[1])
        if new.x.is_floating_point() and not self.x.is_floating_point():
            raise DtypeError(f"x must be integer as before ({self.x.dtype}), got {new.x.dtype}.")
        new = replace(new, x=new.x.to(self.x))
        eps, solve = streams(as_generator(generator), "noise", "solver")
        data = self.data.joined(new.with_noise(self.num_samples, eps))
        # groups are numbered by first appearance, so the old ones keep their numbers; centres stay as they are
        rows = data.rows if self.centres is None else self.points
        start = self.solution.x.new_zeros(len(rows), self.solution.x.shape[1])
        start[: len(self.points)] = torch.nan_to_num(self.solution.x)
        return Posterior(self.process, data, self.process.solve(data, solve, start))

    @undisturbed()
    def more_samples(self, num_samples: int, generator: Seed = None) -> PathwiseSamples:
        """Further samples: fresh weights and noise, and one more block of solves.

        They are drawn as the first ones were, and of the same features where there are any: given the features, all
        are independent, and `PathwiseSamples.joined` makes one set of them that is evaluated at the cost of one.

        Raises:
            InputError: num_samples is no positive integer.
        """
        number = whole_number(num_samples, "num_samples")
        draw, eps, solve = streams(as_generator(generator), "prior", "noise", "solver")
        data = self.data.with_noise(number, eps)
        if self.prior is None:
            prior = draw_prior(self.kernel, data.x, number, self.options.num_features, draw)
        else:
            prior = self.prior.redrawn(number, draw)
        rhs = prior.at(self.x).double() + data.merged(data.noise)
        solution = self.process.solve_columns(data, rhs, solve, with_mean=False)
        return self._paths(prior, solution.x.double())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posterior to one safetensors file: data, weights, kernel, solver and its settings.

        Every tensor has its checksum, and nothing in the file can be run. What is of a class of your own cannot be
        written, which a `NotSaved` warning says by name: a kernel is then asked for by `load`, a solver may be given.
        Cost: 8·n·(d + 3 + 2s) bytes for s samples, and 8·p·s for the p features of their prior functions.

        Raises:
            InputError, DataFileError: the path is none, or cannot be written; a file that was there is unchanged.
        """
        storage.save(path, self.process, self.data, self.solution)

    @staticmethod
    def load(path: str | os.PathLike[str], *, kernel: Any = None, solver: Solver | None = None) -> Posterior:
        """Read what `save` wrote.

        Args:
            path: the file.
            kernel: needed only for kernels that cannot be described by their values.
            solver: for updates, further samples and solved variances; None takes the one saved, and warns with
                `NotSaved` where that was of a class of your own: then the default one is taken.

        Raises:
            DataFileError: the file is missing, damaged, of a newer format, or not a saved posterior.
            InputError: its kernel cannot be described by values and `kernel` was not given.
        """
        check_solver_argument(solver)
        return Posterior(*storage.load(path, kernel, solver))

"""The posterior of a Bayesian linear model, by its mean and samples."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sggp.checks import flag, one_of
from sggp.errors import InputError, NotSaved, ShapeError
from sggp.linear.expectation import Outcome, Step
from sggp.linear.features import Features, as_features, batches
from sggp.persistence import read_content, rebuilding, write_content
from sggp.solvers import ConjugateGradients, Solution, Solver, describe_solver, rebuild_solver
from sggp.solvers.settings import describe_solution, rebuild_solution

__all__ = ["LinearPosterior"]

_KIND = "linear posterior"
_PLAIN = (
    "weights",
    "deviations",
    "prior_precision",
    "prior_scale",
    "noise_variance",
    "effective_dimension",
    "effective_dimension_error",
    "converged",
    "num_outputs",
    "_tolerance",
)
_COLUMNS = 256
"""Columns of a solve for exact variances."""


@dataclass(frozen=True, eq=False)
class LinearPosterior:
    """N(θ̄, H⁻¹), H = A + ΦᵀBΦ, known by θ̄ and samples of the deviation from it.

    Attributes:
        weights: (D,) θ̄, float64.
        deviations: (D, k) zero-mean samples ζ_j ~ N(0, H⁻¹), float64.
        prior_precision: α in A = α diag(s)⁻².
        prior_scale: (D,) s.
        noise_variance: σ² in B_i = B⁰_i/σ², in squared units of y where B⁰ = I.
        effective_dimension: γ̂ = (1/k)Σ_j‖Φζ_j‖²_B, an estimate of tr(H⁻¹ΦᵀBΦ); `effective_dimension_error` is its
            Monte Carlo standard error.
        trace: one `Step` per evidence update.
        converged: whether every column met its tolerance and the learnt values have settled.
        solution: of the last solve, mean in column 0, in units of the prior scale.
    """

    weights: Tensor
    deviations: Tensor
    prior_precision: float
    prior_scale: Tensor
    noise_variance: float
    effective_dimension: float
    effective_dimension_error: float
    trace: tuple[Step, ...]
    converged: bool
    solution: Solution
    num_outputs: int
    _outcome: Outcome | None  # None once loaded: the features of the fit are in no file
    _solver: Solver
    _tolerance: float

    def mean(self, features: Any) -> Tensor:  # -> (m, o)
        """Φ*θ̄, latent.

        Args:
            features: `Features`, or a tensor (m, p) or (m, o, D), made as those of `fit`.
        """
        return self._product(self._features(features), self.weights[:, None])[..., 0]

    def samples(self, features: Any) -> Tensor:  # -> (k, m, o)
        """Φ*(θ̄ + ζ_j): the same functions at every call."""
        weights = self.weights[:, None] + self.deviations
        return self._product(self._features(features), weights).permute(2, 0, 1)

    def variance(
        self,
        features: Any,
        *,
        method: Literal["samples", "solve"] = "samples",
        observation_noise: bool = False,
    ) -> Tensor:  # -> (m, o)
        """The variance of every output.

        Args:
            features: as in `mean`.
            method: "samples" (relative standard error √(2/k)) or "solve" (one column per output, to the tolerance).
            observation_noise: whether to add σ², the noise of an observation with B⁰ = I.

        Raises:
            InputError, ShapeError: an argument cannot be used; "solve" of a posterior that was loaded.
        """
        one_of(method, "method", ("samples", "solve"))
        if flag(observation_noise, "observation_noise"):
            return self.variance(features, method=method) + self.noise_variance
        if method == "samples":
            return self._product(self._features(features), self.deviations).square().mean(-1)
        return self.covariance(features, method=method).diagonal(dim1=1, dim2=2).clone()

    def covariance(
        self, features: Any, *, method: Literal["samples", "solve"] = "samples"
    ) -> Tensor:  # -> (m, o, o)
        """The covariance between the outputs of every point, latent; `method` as in `variance`."""
        one_of(method, "method", ("samples", "solve"))
        given = self._features(features)
        if method == "samples":
            out = self._product(given, self.deviations)
            return out @ out.mT / out.shape[-1]
        n, step = given.num_rows, max(1, min(given.batch_size, _COLUMNS // self.num_outputs))
        return torch.cat([self._solved(given, slice(i, min(i + step, n))) for i in range(0, n, step)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posterior to one safetensors file, with checksums: all but the features of the fit.

        What is loaded gives the same means, samples and variances by samples; those by solves need another fit.

        Args:
            path: the file, which appears whole or not at all.

        Raises:
            InputError, DataFileError: the path is none, or cannot be written; a file that was there is unchanged.

        Warns:
            NotSaved: the solver is of a class of your own.

        Cost: 16·D·(1 + k) bytes.
        """
        solver = describe_solver(self._solver)
        content = {
            **{name: getattr(self, name) for name in _PLAIN},
            "trace": [asdict(step) for step in self.trace],
            "solution": describe_solution(self.solution),
            "solver": solver,
        }
        write_content(path, _KIND, content)
        if solver is None:
            warnings.warn(
                f"{type(self._solver).__name__}, a solver of your own, is not kept in {path}.",
                NotSaved,
                stacklevel=2,
            )

    @staticmethod
    def load(path: str | os.PathLike[str]) -> LinearPosterior:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            DataFileError: the file is missing, damaged, another, or of a newer format.
        """
        content = read_content(path, _KIND)
        with rebuilding(path, _KIND):
            solver = content["solver"]
            found = LinearPosterior(
                **{name: content[name] for name in _PLAIN},
                trace=tuple(Step(**step) for step in content["trace"]),
                solution=rebuild_solution(content["solution"]),
                _outcome=None,
                _solver=ConjugateGradients() if solver is None else rebuild_solver(solver),
            )
            size, samples = found.deviations.shape
            if not found.weights.shape == found.prior_scale.shape == (size,) or size % found.num_outputs:
                raise ValueError("weights, samples and scales of different sizes")
            if found.solution.x.shape != (size, 1 + samples):
                raise ValueError("a solution of another size")
        return found

    def _solved(self, features: Features, rows: slice) -> Tensor:  # -> (b, o, o)
        if self._outcome is None:
            raise InputError(
                'method="solve" needs the features of the fit, which a saved posterior does not hold: take '
                'method="samples", or fit again.'
            )
        b, o = rows.stop - rows.start, self.num_outputs
        unit = torch.eye(b * o, dtype=features.dtype, device=features.device).reshape(b, o, b * o)
        scale = self.prior_scale[:, None]
        rhs = features.adjoint(unit, rows).double() * scale
        operator = self._outcome.operator
        x = self._solver.solve(operator, rhs, tolerance=self._tolerance, generator=operator.generator).x
        out = features.apply((scale * x).to(features.dtype), rows).double().reshape(b, o, b, o)
        blocks = out.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return (blocks + blocks.mT) / 2

    def _features(self, features: Any) -> Features:
        shared = isinstance(features, Tensor) and features.ndim == 2
        given = as_features(features, self.num_outputs if shared else None)
        if (given.num_weights, given.num_outputs) != (len(self.weights), self.num_outputs):
            raise ShapeError(
                f"the features have {given.num_weights} weights and {given.num_outputs} outputs, those of the fit "
                f"{len(self.weights)} and {self.num_outputs}."
            )
        return given

    def _product(self, features: Features, weights: Tensor) -> Tensor:  # (D, s) -> (m, o, s)
        columns = weights.to(device=features.device, dtype=features.dtype)
        return torch.cat([features.apply(columns, rows).double() for rows in batches(features)])

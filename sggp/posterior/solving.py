"""The linear systems of a posterior: how they are solved, and to which tolerance."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import real_numbers
from sggp.defaults import DIRECT_ROWS
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.operators import InducingOperator, KernelOperator
from sggp.posterior.data import Data, Prior
from sggp.solvers import Auto, Cholesky, Solution, Solver
from sggp.typing import FailurePolicy

NORMAL_SHARE = 1e-3
"""Default tolerances with centres, as a share of those without: a normal equation squares the condition."""
LEAST_SOLVE = 0.1
"""The share of `max_seconds` that a solve has, however long merging rows and drawing samples took."""


def check_solver_argument(solver: Any) -> None:
    """Refuse what cannot solve: an instance with a method `solve` is expected, or None.

    Raises:
        DtypeError: something else, for instance a class.
    """
    if solver is not None and (isinstance(solver, type) or not callable(getattr(solver, "solve", None))):
        raise DtypeError(
            f"solver must be a solver of sggp.solvers, as in ConjugateGradients(), or None; got {solver!r}."
        )


def by_factor(rows: int) -> dict[str, Any]:
    """The settings of `condition` for one Cholesky factor in float64, with memory for that one matrix."""
    return {"solver": Cholesky(), "dtype": torch.float64, "memory_budget": 8 * rows * rows}


@dataclass(frozen=True)
class SolveOptions:
    """How the systems of a posterior are solved; the arguments of `condition` of the same names."""

    solver: Solver | None
    tolerance: float | Tensor
    num_features: int
    dtype: torch.dtype
    memory_budget: float
    max_epochs: float | None = None
    max_seconds: float | None = None
    on_failure: FailurePolicy = "warn"
    centres: Tensor | None = None

    def solver_for(self, n: int) -> Solver:
        """The solver given, else the default one for n distinct inputs."""
        if self.solver is not None:
            return self.solver
        return Cholesky() if n <= DIRECT_ROWS and self.centres is None else Auto()

    def tolerances(self, samples: int, with_mean: bool) -> Tensor:
        """One tolerance per column, the mean's first.

        Raises:
            ShapeError: there are more than two.
        """
        means = 1 if with_mean else 0
        given = real_numbers(self.tolerance, "tolerance", "one number, or two (mean, samples)").reshape(-1)
        if not bool((given > 0).all()) or not bool(torch.isfinite(given).all()):
            raise InputError(f"tolerance must be positive and finite, got {given.tolist()}.")
        if len(given) == 1:
            return given.expand(means + samples).clone()
        if len(given) == 2:
            return torch.cat([given[:1].expand(means), given[1:].expand(samples)])
        raise ShapeError(f"tolerance must be one number, two (mean, samples) or None; got {len(given)}.")


def working_precision(process: Process, data: Data, solution: Solution, scale: float) -> torch.dtype:
    """float32 where the solve worked in it and it carries the weights as far as they were solved for, else float64.

    Rounding weights and kernel values to float32 moves a prediction by about ε·scale·‖α‖₂, each rounding being
    independent. That has to stay below tolerance·rms(b), the size that the solve leaves a residual of.
    """
    if process.options.dtype == torch.float64:
        return torch.float64
    target = data.merged(data.y[:, None] - process.mean)
    size = torch.full((solution.x.shape[1],), scale + float(data.noise_variance.mean()), dtype=torch.float64)
    size[0] = float(target.square().mean())
    share = 1.0 if process.options.centres is None else NORMAL_SHARE
    allowed = solution.tolerance.double() / share * size.sqrt()
    norms = torch.nan_to_num(solution.x.double()).norm(dim=0).cpu()
    rounding = torch.finfo(torch.float32).eps / 2 * scale * norms
    return torch.float64 if bool((rounding > allowed).any()) else torch.float32


@dataclass(frozen=True)
class Process:
    """f ~ GP(mean, kernel) with prior draws of f, and how systems with it are solved: all that new data leave as it is.

    Attributes:
        kernel: the GPyTorch kernel.
        mean: μ, constant.
        prior: the s prior functions behind the samples; None where there are none.
        options: how to solve.
    """

    kernel: Any
    mean: float
    prior: Prior | None
    options: SolveOptions

    def solve(
        self,
        data: Data,
        generator: torch.Generator,
        x0: Tensor | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Solution:
        """Solve for the mean, column 0, and all samples: (K + Σ)[α_mean, α_i …] = [y − μ, f⁰_i(x) + ε_i, …]."""
        return self.solve_columns(data, self.targets(data), generator, x0=x0, checkpoint=checkpoint)

    def after(self, seconds: float) -> Process:
        """The same process with so many seconds less to solve in, a tenth of what there were at least."""
        allowed = self.options.max_seconds
        if allowed is None:
            return self
        left = max(LEAST_SOLVE * allowed, allowed - seconds)
        return replace(self, options=replace(self.options, max_seconds=left))

    def prediction_errors(self, data: Data, solution: Solution) -> tuple[float, float]:
        """What far fields may add to means and to samples: a tenth of the residual asked for, in units of y."""
        size = 0.1 * float((data.y - self.mean).double().square().mean().sqrt())
        tolerance = solution.tolerance.double()
        mean = float(tolerance[0]) if len(tolerance) else 0.0
        return size * mean, size * (float(tolerance[1:].min()) if len(tolerance) > 1 else mean)

    def targets(self, data: Data) -> Tensor:  # -> (g, 1 + s)
        """The right-hand sides [y − μ, f⁰_i(x) + ε_i, …], float64."""
        columns = [data.merged(data.y[:, None] - self.mean)]
        if self.prior is not None:
            columns.append(self.prior.at(data.rows) + data.merged(data.noise))
        return torch.cat([c.double() for c in columns], 1)

    def solve_columns(
        self,
        data: Data,
        rhs: Tensor,
        generator: torch.Generator,
        *,
        x0: Tensor | None = None,
        with_mean: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Solution:
        """Solve (K + Σ) A = rhs, rhs of shape (g, s), or the normal equation on the centres where there are any."""
        options = self.options
        operator: KernelOperator | InducingOperator
        if options.centres is None:
            operator = self.operator(data)
        else:
            operator = InducingOperator(
                self.kernel,
                data.rows,
                options.centres,
                data.merged_noise,
                dtype=options.dtype,
                memory_budget=options.memory_budget,
            )
            rhs = operator.normal_rhs(rhs)
        samples = rhs.shape[1] - (1 if with_mean else 0)
        return options.solver_for(len(data.rows)).solve(
            operator,
            rhs,
            x0,
            tolerance=options.tolerances(samples, with_mean),
            max_epochs=options.max_epochs,
            max_seconds=options.max_seconds,
            generator=generator,
            on_failure=options.on_failure,
            checkpoint=checkpoint,
        )

    def operator(self, data: Data) -> KernelOperator:
        """K + Σ of the merged rows."""
        return KernelOperator(
            self.kernel,
            data.rows,
            data.merged_noise,
            dtype=self.options.dtype,
            memory_budget=self.options.memory_budget,
        )

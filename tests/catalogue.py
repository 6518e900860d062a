"""One row per part: a new kernel, operator or solver joins the property tests by adding its row here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gpytorch.kernels as gk
import torch

from sggp.kernels import TanimotoDotProduct, TanimotoMinMax
from sggp.native import cpu, reference, triton
from sggp.preconditioners import LowRankPlusNeighbour, NearestNeighbour, Nystrom, PivotedCholesky
from sggp.solvers import (
    AlternatingProjections,
    Auto,
    Cholesky,
    ConjugateGradients,
    SketchAndProject,
    Solver,
    StochasticDualDescent,
    StochasticGradientDescent,
)
from tests import oracles

# --- inputs -----------------------------------------------------------------------------------------------------


def real_rows(n: int, d: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Standard normal rows, (n, d)."""
    return torch.randn(n, d, dtype=torch.float64, generator=generator).to(dtype)


def count_rows(n: int, d: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Sparse fingerprint counts, one row empty, (n, d); uint8 whatever the dtype asked for."""
    counts = torch.randint(1, 6, (n, d), generator=generator)
    counts *= torch.rand(n, d, generator=generator) < 0.3
    counts[n // 2] = 0
    return counts.to(torch.uint8)


def float_count_rows(n: int, d: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """The same counts as floats, as GPyTorch and BoTorch models hold them."""
    return count_rows(n, d, dtype, generator).to(dtype)


# --- kernels ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelRow:
    """A kernel of the property tests.

    Args:
        name: the id of the tests.
        make: input dimension → a GPyTorch kernel with scale ≠ 1 and length scales ≠ 1.
        rows: (n, d, dtype, generator) → inputs.
        has_features: whether `draw_features` knows it.
        stationary: whether k depends on x − z only, so that far-off-centre data must cost no accuracy.
        fast: whether `as_covariance` has an engine for it (else the kernel evaluates itself).
        embeds: whether `Covariance.embedding` gives points.
        smooth: whether k is differentiable in real rows.
        tolerance: of an entry, in units of the scale, in (float32, float64).
    """

    name: str
    make: Callable[[int], Any]
    rows: Callable[[int, int, torch.dtype, torch.Generator], torch.Tensor] = real_rows
    has_features: bool = True
    stationary: bool = False
    fast: bool = True
    embeds: bool = False
    smooth: bool = True
    tolerance: tuple[float, float] = (1e-6, 1e-12)

    def __str__(self) -> str:
        return self.name


def _scaled(base: Any, outputscale: float) -> Any:
    kernel = gk.ScaleKernel(base)
    kernel.outputscale = outputscale
    return kernel


def _ard(base: Any, d: int) -> Any:
    base.lengthscale = torch.linspace(0.6, 1.7, d)
    return base


def _rq(d: int) -> Any:
    base = _ard(gk.RQKernel(ard_num_dims=d), d)
    base.alpha = 0.8
    return _scaled(base, 1.9)


def _some_columns(d: int) -> Any:
    base = gk.MaternKernel(nu=2.5, ard_num_dims=1, active_dims=(d - 1,))
    base.lengthscale = 0.7
    return _scaled(base, 0.6)


def _periodic(d: int) -> Any:
    base = gk.PeriodicKernel(ard_num_dims=d)
    base.lengthscale, base.period_length = torch.linspace(0.8, 1.5, d), torch.linspace(1.5, 2.5, d)
    return _scaled(base, 1.4)


STATIONARY_ROWS = [
    KernelRow(
        "rbf", lambda d: _scaled(_ard(gk.RBFKernel(ard_num_dims=d), d), 2.3), stationary=True, embeds=True
    ),
    KernelRow(
        "matern12",
        lambda d: _scaled(_ard(gk.MaternKernel(0.5, ard_num_dims=d), d), 0.7),
        stationary=True,
        embeds=True,
    ),
    KernelRow(
        "matern32",
        lambda d: _scaled(_ard(gk.MaternKernel(1.5, ard_num_dims=d), d), 3.1),
        stationary=True,
        embeds=True,
    ),
    KernelRow(
        "matern52",
        lambda d: _scaled(_ard(gk.MaternKernel(2.5, ard_num_dims=d), d), 1.3),
        stationary=True,
        embeds=True,
    ),
    KernelRow("rq", _rq, stationary=True, embeds=True),
    KernelRow("one-lengthscale", lambda d: _ard(gk.RBFKernel(), 1), stationary=True, embeds=True),
    KernelRow("active-dims", _some_columns, stationary=True, embeds=True),
    KernelRow(
        "sum",
        lambda d: _scaled(_ard(gk.RBFKernel(ard_num_dims=d), d), 0.5) + _scaled(gk.MaternKernel(0.5), 1.5),
        stationary=True,
    ),
    KernelRow(
        "product",
        lambda d: _scaled(_ard(gk.MaternKernel(1.5, ard_num_dims=d), d), 1.8) * gk.RQKernel(active_dims=(0,)),
        stationary=True,
    ),
    KernelRow(
        "scaled-sum-of-product",
        lambda d: _scaled(gk.RBFKernel() * gk.MaternKernel(2.5) + _scaled(gk.MaternKernel(1.5), 0.4), 1.2),
        stationary=True,
    ),
]


def _constant(value: float) -> Any:
    kernel = gk.ConstantKernel()
    kernel.constant = torch.tensor(value)
    return kernel


CONSTANT_ROWS = [
    KernelRow("constant", lambda d: _scaled(_constant(0.7), 3.0), stationary=True),
    KernelRow(
        "plus-constant",
        lambda d: _ard(gk.MaternKernel(1.5, ard_num_dims=d), d) + _constant(4.0),
        stationary=True,
    ),
]

TANIMOTO_ROWS = [
    KernelRow("tanimoto-minmax", lambda d: _scaled(TanimotoMinMax(), 1.7), count_rows, smooth=False),
    KernelRow("tanimoto-dot-product", lambda d: _scaled(TanimotoDotProduct(), 0.6), count_rows, smooth=False),
    KernelRow(
        "tanimoto-minmax-float", lambda d: _scaled(TanimotoMinMax(), 1.7), float_count_rows, smooth=False
    ),
    KernelRow("tanimoto-bare", lambda d: TanimotoMinMax(), count_rows, smooth=False),
    KernelRow(
        "tanimoto-sum",
        lambda d: _scaled(TanimotoMinMax(), 0.9) + _scaled(TanimotoDotProduct(), 0.4),
        count_rows,
        smooth=False,
    ),
]

GENERIC_ROWS = [
    KernelRow("periodic", _periodic, embeds=True, tolerance=(1e-5, 1e-10)),
    KernelRow("linear", lambda d: _scaled(gk.LinearKernel(), 0.9), fast=False, tolerance=(1e-5, 1e-12)),
    KernelRow(
        "rbf-plus-periodic",
        lambda d: _scaled(gk.RBFKernel(), 1.6) + _periodic(d),
        fast=False,
        tolerance=(1e-5, 1e-10),
    ),
]

KERNELS = [*STATIONARY_ROWS, *CONSTANT_ROWS, *TANIMOTO_ROWS, *GENERIC_ROWS]

# --- families ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FamilyRow:
    """A row of `sggp.native.families`, with the same correlation by another route.

    Args:
        name: of the family.
        formula: distances in length scales → correlations, in extended precision.
        alpha: the shape that `formula` is for, where the family has one.
    """

    name: str
    formula: Callable[[Any], Any]
    alpha: float | None = None


FAMILIES = [
    FamilyRow("rbf", oracles.rbf),
    FamilyRow("matern12", oracles.matern12),
    FamilyRow("matern32", oracles.matern32),
    FamilyRow("matern52", oracles.matern52),
    FamilyRow("rq", lambda r: oracles.rational_quadratic(r, 0.7), 0.7),
]

# --- solvers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SolverRow:
    """A solver of the property tests: a name and settings at which 150 rows are more than one block."""

    name: str
    solver: Solver

    def __str__(self) -> str:
        return self.name


SOLVERS = [
    SolverRow("cholesky", Cholesky()),
    SolverRow("cholesky-float32", Cholesky(factor_dtype=torch.float32)),
    SolverRow("cg", ConjugateGradients(None)),
    SolverRow("cg-nystrom", ConjugateGradients(Nystrom(30))),
    SolverRow("cg-pivoted", ConjugateGradients(PivotedCholesky(30))),
    SolverRow("cg-neighbour", ConjugateGradients(NearestNeighbour(10))),
    SolverRow("cg-both", ConjugateGradients(LowRankPlusNeighbour(20, 10))),
    SolverRow("dual-descent", StochasticDualDescent()),
    SolverRow("gradient-descent", StochasticGradientDescent()),
    SolverRow("projections", AlternatingProjections(block_size=40)),
    SolverRow("sketch-and-project", SketchAndProject(block_size=40)),
    SolverRow("sketch-and-project-tail", SketchAndProject(block_size=40, tail_averaging=True)),
    SolverRow("auto", Auto()),
    SolverRow("auto-iterative", Auto(direct_rows=0)),
]

# --- engines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EngineRow:
    """An engine with the functions of `sggp.native.reference`.

    Args:
        name: the id of the tests.
        module: where its functions are.
        device: where it takes its tensors.
        settings: more arguments of every function.
        most: the largest number of kernel entries times dimension that a test may ask of it.
    """

    name: str
    module: Any
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict)
    most: int = 2_000_000

    def __str__(self) -> str:
        return self.name


def _triton_rows() -> list[EngineRow]:
    """On a GPU, or where this process interprets Triton (tests/native/test_triton.py starts such a process)."""
    if not triton.available():
        return []
    if torch.cuda.is_available():
        return [EngineRow("triton", triton, "cuda")]
    interprets = os.environ.get("TRITON_INTERPRET") == "1"
    return [EngineRow("triton-interpreted", triton, most=5_000)] if interprets else []


ENGINES = [
    EngineRow("reference", reference),
    *(EngineRow(f"cpp-{isa}", cpu, settings={"isa": isa}) for isa in cpu.instruction_sets()),
    *_triton_rows(),
]

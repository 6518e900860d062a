"""What one process and several workers compute alike: small systems, every solver, fits and predictions."""

from __future__ import annotations

from typing import Any

import gpytorch
import torch
from torch import Tensor

from sggp import ConjugateGradients, GPRegressor, KernelOperator, TanimotoMinMax, condition
from sggp.bayesopt.streaming import PathSearch
from sggp.hyperparameters import fit_iterative
from sggp.kernels import as_covariance, kernel_gradient
from sggp.neighbours import earlier_neighbours
from sggp.operators import InducingOperator
from sggp.parallel import current
from sggp.preconditioners import (
    LowRankPlusNeighbour,
    NearestNeighbour,
    Nystrom,
    PivotedCholesky,
    RecomputedNystrom,
)
from sggp.random import as_generator
from sggp.solvers import (
    AlternatingProjections,
    Auto,
    Cholesky,
    SketchAndProject,
    StochasticDualDescent,
    StochasticGradientDescent,
)

N, D = 131, 3
Found = dict[str, Tensor]


def matern() -> Any:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=D)).double()
    kernel.base_kernel.lengthscale = torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64)
    return kernel.requires_grad_(True)


def polynomial() -> Any:
    """A kernel that no engine knows: its matrix is kept."""
    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.PiecewisePolynomialKernel(q=2)).double()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows() -> Tensor:
    return numbers(N, D)


def counts(n: int = N) -> Tensor:
    return torch.randint(0, 4, (n, 24), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def targets() -> Tensor:
    return torch.sin(rows().sum(1)) + 0.1 * numbers(N, seed=1)


def products() -> Found:
    found: Found = {}
    some, v = torch.arange(0, N, 4), numbers(N, 3, seed=2)
    systems = {
        "matern": KernelOperator(matern(), rows(), 0.1),
        "matern float32": KernelOperator(matern(), rows(), 0.1, dtype=torch.float32),
        "polynomial": KernelOperator(polynomial(), rows(), 0.1),
        "tanimoto": KernelOperator(TanimotoMinMax(), counts(), 0.1, dtype=torch.float64),
    }
    for name, operator in systems.items():
        w = v.to(operator.dtype)
        found[f"{name} matmul"] = operator.matmul(w)
        found[f"{name} wide"] = operator.matmul_wide(v)
        found[f"{name} rows"] = operator.rows_matmul(some, w)
        found[f"{name} columns"] = operator.columns_matmul(some, w[some])
        found[f"{name} block"] = operator.block(some, some)
        found[f"{name} dense"] = operator.dense()
        found[f"{name} entries"] = torch.tensor(operator.entries_evaluated)
    assert systems["polynomial"].keeps_matrix
    assert not systems["matern"].keeps_matrix
    order = torch.randperm(4500, generator=torch.Generator().manual_seed(16))
    found["neighbours"] = earlier_neighbours(numbers(4500, 2), order, 3, method="tree")
    found["few rows"] = as_covariance(matern()).matmul(rows()[:2], rows(), v)
    return found


def solves() -> Found:
    found: Found = {}
    rhs = numbers(N, 2, seed=4)
    methods = (
        Cholesky(),
        Cholesky(torch.float32),
        Auto(direct_rows=0),
        ConjugateGradients(None),
        ConjugateGradients(Nystrom(30)),
        ConjugateGradients(PivotedCholesky(10)),
        ConjugateGradients(RecomputedNystrom(30)),
        ConjugateGradients(NearestNeighbour(10)),
        ConjugateGradients(LowRankPlusNeighbour(10, 5)),
        StochasticDualDescent(),
        StochasticGradientDescent(),
        AlternatingProjections(block_size=40),
        SketchAndProject(block_size=40),
    )
    operator = KernelOperator(matern(), rows(), 0.1)
    for solver in methods:
        solution = solver.solve(
            operator, rhs, tolerance=1e-10, max_epochs=4, generator=5, on_failure="return"
        )
        found[solver.describe()] = solution.x
    kept = KernelOperator(polynomial(), rows(), 0.1)
    sgd = StochasticGradientDescent()
    found["SGD kept"] = sgd.solve(kept, rhs, max_epochs=3, generator=6, on_failure="return").x
    return found


def inducing() -> Found:
    operator = InducingOperator(matern(), rows(), rows()[:20], 0.1)
    rhs = operator.normal_rhs(targets())
    options: Any = {"tolerance": 1e-9, "max_epochs": 6, "generator": 7, "on_failure": "return"}
    return {
        "inducing rhs": rhs,
        "inducing matmul": operator.matmul(numbers(20, 2)),
        "inducing dense": operator.dense(),
        "inducing diagonal": operator.diagonal(),
        "inducing gathered": operator.gathered(),
        "inducing CG": ConjugateGradients(None).solve(operator, rhs, **options).x,
        "inducing SGD": StochasticGradientDescent().solve(operator, rhs, **options).x,
        "inducing entries": torch.tensor(operator.entries_evaluated),
    }


def gradients() -> Found:
    left, right = numbers(N, 2, seed=8), numbers(N, 2, seed=9)
    rational = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RQKernel()).double()
    kernels = {"matern": matern(), "rational": rational, "polynomial": polynomial()}
    return {
        f"{name} {parameter}": value
        for name, kernel in kernels.items()
        for parameter, value in kernel_gradient(kernel, rows(), left, right).items()
    }


def fits() -> Found:
    fit = fit_iterative(
        matern(),
        rows(),
        targets(),
        solver=ConjugateGradients(),
        num_probes=4,
        num_features=64,
        max_steps=1,
        solve_tolerance=1e-8,
        start=None,
        evaluate=False,
        generator=10,
    )
    named = {f"fit {name}": p.detach() for name, p in fit.kernel.named_parameters()}
    return {**named, "fit mean": fit.posterior.mean(rows()[:5])}


def predictions() -> Found:
    found: Found = {}
    options: Any = {"num_samples": 3, "num_features": 64, "generator": 11, "tolerance": 1e-6}
    options |= {"noise_variance": 1.0, "solver": ConjugateGradients(None), "dtype": torch.float64}
    systems = {"float": (matern(), rows()), "counts": (TanimotoMinMax(), counts())}
    for name, (kernel, x) in systems.items():
        posterior = condition(kernel, x, targets(), **options)
        q = x[:40]
        found[f"{name} mean"], found[f"{name} samples"] = posterior.mean(q), posterior.samples(q)
        found[f"{name} variance by samples"] = posterior.variance(q, method="samples")
    points = rows()[:40].requires_grad_()
    posterior = condition(matern(), rows(), targets(), **options)
    found["variance by solving"] = posterior.variance(rows()[:3] + 0.1, method="solve")
    (found["derivative"],) = torch.autograd.grad(posterior.samples(points).sum(), points)
    more = posterior.update(rows()[:3] + 0.1, targets()[:3], generator=12)
    found["updated"] = more.mean(rows()[:5])
    centres = condition(matern(), rows(), targets(), centres=10, **options)
    found["centres"] = centres.mean(rows()[:5])
    return found


def by_chance() -> Found:
    """What has no seed: alike on all ranks, and another thing each time."""
    model = GPRegressor("rbf", optimizer=None, noise_variance=0.1, num_samples=2).fit(
        rows()[:30].numpy(), targets()[:30].numpy()
    )
    slow = StochasticDualDescent().solve(
        KernelOperator(matern(), rows(), 1e-3),
        targets(),
        tolerance=1e-12,
        max_seconds=0.05,
        generator=13,
        on_failure="return",
    )
    workers = current()
    return {
        "seed": torch.tensor(as_generator(None).initial_seed()),
        "regressor": torch.from_numpy(model.posterior_.samples(rows()[:3]).numpy()),
        "iterations within a time": torch.tensor(slow.iterations),
        "agreed": torch.tensor([workers.agreed(0.5 + workers.rank), workers.agreed(7 + workers.rank)]),
        "map": torch.tensor(workers.map(pow, range(5), [2] * 5)),
    }


def screening() -> Found:
    """The best rows of every path, shard by shard; the rows of a shard differ from rank to rank."""
    posterior = condition(matern(), rows(), targets(), noise_variance=1.0, num_samples=3, generator=14)
    search, table = PathSearch(posterior.samples, k=4), numbers(60, D, seed=15)
    best = search.reduce(*current().map(search.shard, table.split(25), (0, 25, 50)))
    return {"best values": torch.from_numpy(best.values), "best rows": torch.from_numpy(best.rows)}


def everything() -> Found:
    """All that is the same on one process and on many."""
    parts = (products, solves, inducing, gradients, fits, predictions, screening)
    return {name: value.detach() for part in parts for name, value in part().items()}

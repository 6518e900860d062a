"""`check_solver`: does a solver keep the promises of `Solver.solve`?"""

from __future__ import annotations

import pickle
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpytorch
import numpy as np
import torch
from torch import Tensor

from sggp.operators import KernelOperator
from sggp.random import as_generator, draw_seed
from sggp.solvers import Solution, Solver, Status
from sggp.typing import Seed

__all__ = ["check_solver"]

_SLACK = 1.02
"""How far a residual measured here may exceed the one the solver states: they are added up in another order."""
_PAUSE = 1.1
"""Seconds after which a checkpoint is due."""


@dataclass(frozen=True)
class _System:
    """A kernel system with its dense float64 matrix, the oracle."""

    operator: KernelOperator
    matrix: Tensor
    rhs: Tensor  # (n, 4)
    seed: int

    def residual(self, x: Tensor, rhs: Tensor | None = None) -> Tensor:  # -> (s,)
        rhs = self.rhs if rhs is None else rhs
        rhs, x = rhs.double().reshape(len(rhs), -1), x.double().reshape(len(rhs), -1)
        return (rhs - self.matrix @ x).norm(dim=0) / rhs.norm(dim=0)


def check_solver(
    solver: Solver,
    *,
    generator: Seed,
    n: int = 150,
    noise_variance: float = 0.5,
    tolerances: tuple[float, ...] = (1e-1, 1e-2, 1e-3),
    system: Callable[[int, float, torch.Generator], KernelOperator] | None = None,
) -> list[str]:
    """List the promises of `Solver.solve` that `solver` breaks; an empty list means nothing was found.

    Checked on a well-conditioned kernel system against its dense float64 matrix: settings that are frozen, pickle and
    show themselves; at each tolerance, columns that are said to be converged are, and residuals are what they are said
    to be; the loosest tolerance is reached; a tolerance per column; zero columns; NaN in one column leaves the others
    alone; a solution fed back costs one pass; equal seeds give equal answers; vectors give vectors and dtypes are kept
    where they suffice; what is said of x holds for x in the precision in which it is returned, on a system whose
    solution float32 cannot hold;
    `max_epochs`; the order of the rows does not matter; arguments and global states of random numbers are left alone;
    a solve that is interrupted and resumed from its checkpoint ends where an unbroken one ends.

    Args:
        solver: what to check.
        generator: seed or generator of the system and of all solves.
        n: rows of the system.
        noise_variance: its noise; the kernel has an outputscale of 0.7.
        tolerances: relative residuals to ask for, the first to be reached by any solver.
        system: makes the operator from n, the noise and a generator, where Matérn-3/2 in eight dimensions does not do.

    Returns:
        One sentence per violation; an error that the solver raises is one.

    Cost: about 16 solves, and a second of waiting for a checkpoint.

    Example:
        >>> from sggp.solvers import ConjugateGradients
        >>> check_solver(ConjugateGradients(), generator=0)
        []
    """
    before = _globals()
    root = as_generator(generator)
    operator = (system or _matern)(n, noise_variance, root)
    rhs = torch.randn(n, 4, generator=root, dtype=torch.float64)
    made = _System(operator, operator.dense(torch.float64), rhs, draw_seed(root))
    checks = (
        _settings, _accuracy, _precision, _columns, _trivial, _warm, _seeds, _types, _budget, _order, _side_effects,
        _resumes,
    )  # fmt: skip
    found = [violation for check in checks for violation in _told(check, solver, made, tolerances)]
    return list(dict.fromkeys([*found, *_changed(before)]))


def _told(check: Callable[..., Iterator[str]], *arguments: Any) -> Iterator[str]:
    """The violations of one check; an error that the solver raises in it is one."""
    try:
        yield from check(*arguments)
    except Exception as error:  # noqa: BLE001  (the check tells all that the solver raises)
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = str(error).partition("\n")[0]
        yield f"it raises {type(error).__name__}: {said} ({Path(where.filename).name}, line {where.lineno})"


def _globals() -> dict[str, Any]:
    """What is global to a process and no solver's to change, under the words that say so."""
    return {
        "draws from torch's global random numbers instead of problem.generator": torch.get_rng_state(),
        "draws from the global random numbers of numpy or Python instead of problem.generator": pickle.dumps(
            (np.random.get_state(), random.getstate())  # noqa: NPY002
        ),
        "changes the default dtype": torch.get_default_dtype(),
        "changes the number of threads": torch.get_num_threads(),
        "changes whether gradients are recorded": torch.is_grad_enabled(),
        "changes how numpy treats floating-point errors": np.geterr(),
    }


def _changed(before: dict[str, Any]) -> Iterator[str]:
    """What is not as it was before all solves: a setting, or a seed, made once is made at the first of them."""
    for what, value in _globals().items():
        same = torch.equal(value, before[what]) if isinstance(value, Tensor) else value == before[what]
        if not same:
            yield f"it {what}"


def _matern(n: int, noise_variance: float, generator: torch.Generator) -> KernelOperator:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
    kernel.outputscale, kernel.base_kernel.lengthscale = 0.7, 1.0
    x = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    return KernelOperator(kernel, x, noise_variance)


def _solve(solver: Solver, system: _System, rhs: Tensor | None = None, **options: Any) -> Solution:
    arguments = {"generator": system.seed, "on_failure": "return", **options}
    operator = arguments.pop("operator", system.operator)
    return solver.solve(operator, (system.rhs if rhs is None else rhs).clone(), **arguments)


def _settings(solver: Any, _: _System, __: Any) -> Iterator[str]:
    parameters = vars(type(solver)).get("__dataclass_params__")
    if parameters is None:
        yield "it is not a dataclass"
        return
    if not parameters.frozen:
        yield "its dataclass is not frozen: settings could change during a solve"
    if type(solver).__name__ not in repr(solver):
        yield "its repr does not name it"
    if pickle.loads(pickle.dumps(solver)) != solver:
        yield "a pickled and unpickled solver is not equal to it"


def _honesty(solution: Solution, truth: Tensor, tolerance: Tensor | float, where: str) -> Iterator[str]:
    """Compare what a solution says of each column with what is measured here."""
    tolerance = torch.as_tensor(tolerance, dtype=torch.float64).expand(len(truth))
    if len(solution.status) != len(truth) or len(solution.residual) != len(truth):
        yield f"{where}: {len(truth)} columns, but {len(solution.status)} statuses"
        return
    for i, (status, value, limit) in enumerate(
        zip(solution.status, truth.tolist(), tolerance.tolist(), strict=True)
    ):
        if status is Status.CONVERGED and not value <= _SLACK * limit + 1e-12:
            yield f"{where}: column {i} is said to be converged, but its residual is {value:.2e}, asked {limit:.0e}"
        elif status is not Status.CONVERGED and value <= limit / _SLACK:
            yield f"{where}: column {i} has residual {value:.2e}, asked {limit:.0e}, but is said to be {status}"
    if solution.residual_kind == "true" and not torch.allclose(
        solution.residual, truth, rtol=0.05, atol=1e-6 * float(tolerance.max()) + 1e-13
    ):
        worst = int((solution.residual - truth).abs().argmax())
        yield (
            f"{where}: the residual of column {worst} is said to be {float(solution.residual[worst]):.2e} and true, "
            f"measured {float(truth[worst]):.2e}"
        )


def _accuracy(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    for tolerance in tolerances:
        solution = _solve(solver, system, tolerance=tolerance)
        if solution.x.shape != system.rhs.shape:
            yield f"x has shape {tuple(solution.x.shape)}, the right-hand side {tuple(system.rhs.shape)}"
            return
        yield from _honesty(solution, system.residual(solution.x), tolerance, f"tolerance {tolerance:.0e}")
        if tolerance == tolerances[0] and not solution.converged:
            yield f"the loosest tolerance, {tolerance:.0e}, is not reached: {solution!r}"


def _precision(solver: Solver, system: _System, _: Any) -> Iterator[str]:
    """Near-duplicates without noise and the smallest eigenvector in float32: no float32 x solves that."""
    given = system.operator
    x = given.x.clone()
    x[1::2] = x[: 2 * (len(x) // 2) : 2] + 1e-3 * x[1::2]
    operator = KernelOperator(given.covariance, x, 1e-6 * given.kernel_diagonal().mean(), dtype=torch.float64)
    matrix = operator.dense(torch.float64)
    hard = _System(operator, matrix, torch.linalg.eigh(matrix)[1][:, :2].float(), system.seed)
    solution = _solve(solver, hard, tolerance=1e-4, max_epochs=100)
    if solution.x.shape != hard.rhs.shape:
        return
    truth = hard.residual(solution.x)
    for violation in _honesty(solution, truth, 1e-4, "a float32 right-hand side at low noise"):
        yield f"{violation}; x is returned in {solution.x.dtype}: measure what is returned"


def _columns(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    loose, tight = tolerances[0], tolerances[-1]
    limits = torch.tensor([loose, tight, loose, tight], dtype=torch.float64)
    solution = _solve(solver, system, tolerance=limits)
    yield from _honesty(solution, system.residual(solution.x), limits, "a tolerance per column")


def _trivial(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    rhs = system.rhs.clone()
    rhs[:, 1] = 0.0
    rhs[3, 2] = float("nan")
    solution = _solve(solver, system, rhs, tolerance=tolerances[0])
    if solution.status[1] is not Status.CONVERGED or bool((solution.x[:, 1] != 0).any()):
        yield f"a zero column has status {solution.status[1]} and must be solved by zeros"
    if solution.status[2] is not Status.NONFINITE_INPUT:
        yield f"a column with NaN has status {solution.status[2]}, expected nonfinite_input"
    others = torch.tensor([0, 3])
    if not bool(torch.isfinite(solution.x[:, others]).all()):
        yield "NaN in one column spoils the others"
        return
    truth = system.residual(solution.x[:, others], rhs[:, others])
    for i, value in zip(others.tolist(), truth.tolist(), strict=True):
        if solution.status[i] is Status.CONVERGED and not value <= _SLACK * tolerances[0]:
            yield f"beside a column with NaN, column {i} is said to be converged at residual {value:.2e}"


def _warm(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    cold = _solve(solver, system, tolerance=tolerances[0])
    if cold.iterations <= 1:  # a direct solve starts from nothing
        return
    warm = _solve(solver, system, x0=torch.linalg.solve(system.matrix, system.rhs), tolerance=tolerances[0])
    if warm.epochs > 1 + 1e-9:
        yield f"started at the solution, it spends {warm.epochs:.3g} epochs; one measures that nothing is to do"
    if not warm.converged:
        yield "started at the solution, it does not converge"


def _seeds(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    one, two = (_solve(solver, system, tolerance=tolerances[0]) for _ in range(2))
    if not torch.equal(one.x, two.x):
        yield "equal seeds give different answers"


def _types(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    vector = _solve(solver, system, system.rhs[:, 0], tolerance=tolerances[0])
    if vector.x.shape != (len(system.rhs),):
        yield f"a right-hand side of shape ({len(system.rhs)},) gives x of shape {tuple(vector.x.shape)}"
    narrow = _solve(solver, system, system.rhs.float(), tolerance=tolerances[0])
    if narrow.x.dtype != torch.float32:
        yield f"a float32 right-hand side gives x in {narrow.x.dtype}"


def _budget(solver: Solver, system: _System, _: Any) -> Iterator[str]:
    solution = _solve(solver, system, tolerance=1e-15, max_epochs=3)
    if solution.iterations > 1 and solution.epochs > 5 + 1e-9:
        yield f"max_epochs=3 ends after {solution.epochs:.3g} epochs: more than a step and a measurement above"
    yield from _honesty(solution, system.residual(solution.x), 1e-15, "max_epochs=3")


def _order(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    """Rows in another order: the answers agree as far as both say that they are right."""
    tolerance = tolerances[1] if len(tolerances) > 1 else tolerances[0]
    order = torch.randperm(len(system.rhs), generator=torch.Generator().manual_seed(system.seed % 2**31))
    given = system.operator
    noise = given.noise_variance[order]
    moved = KernelOperator(given.covariance, given.x[order], noise, dtype=given.dtype)
    one = _solve(solver, system, tolerance=tolerance)
    two = _solve(solver, system, system.rhs[order], operator=moved, tolerance=tolerance)
    back = torch.empty_like(two.x)
    back[order] = two.x
    apart = (system.matrix @ (one.x - back)).norm(dim=0) / system.rhs.norm(dim=0)
    if one.converged and two.converged and float(apart.max()) > 2 * _SLACK * tolerance:
        yield f"rows in another order give another answer: {float(apart.max()):.2e} apart at tolerance {tolerance:.0e}"


def _side_effects(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    """Arguments are as they were."""
    rhs, x0 = system.rhs.clone(), torch.zeros_like(system.rhs)
    limits = torch.full((4,), tolerances[0], dtype=torch.float64)
    solver.solve(system.operator, rhs, x0, tolerance=limits, generator=system.seed, on_failure="return")
    if not torch.equal(rhs, system.rhs):
        yield "it changes the right-hand side it is given"
    if bool((x0 != 0).any()):
        yield "it changes the x0 it is given"
    if not bool((limits == tolerances[0]).all()):
        yield "it changes the tolerances it is given"
    if not torch.equal(system.operator.dense(torch.float64), system.matrix):
        yield "it changes the operator"


class _Interrupted(Exception):
    """Stands for a kill."""


def _resumes(solver: Solver, system: _System, tolerances: tuple[float, ...]) -> Iterator[str]:
    """Interrupted halfway and resumed, a solve ends where an unbroken one ends."""
    tolerance = tolerances[-1]
    whole = _solve(solver, system, tolerance=tolerance, max_epochs=60)
    last = whole.iterations // 2 + 1
    if whole.iterations < 2:
        return

    def interrupt(progress: Any) -> None:
        if progress.iterations == last - 1:
            time.sleep(_PAUSE)
        if progress.iterations == last:
            raise _Interrupted

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "solve"
        options: dict[str, Any] = {"checkpoint": path, "tolerance": tolerance, "max_epochs": 60}
        try:
            _solve(solver, system, callback=interrupt, **options)
        except _Interrupted:
            if not path.exists():
                yield "with checkpoint=path and a second of work, no checkpoint is written"
                return
        else:  # it calls no callbacks: a direct solve
            return
        resumed = _solve(solver, system, **options)
    if not torch.equal(resumed.x, whole.x) or resumed.status != whole.status:
        yield "interrupted and resumed, it ends elsewhere than unbroken: what step changes must be fields of the state"

"""Solvers of (K + Σ) A = B: one file per solver, one driver, one `Solution`."""

from sggp.solvers.alternating_projections import AlternatingProjections
from sggp.solvers.auto import Auto
from sggp.solvers.cholesky import Cholesky
from sggp.solvers.conjugate_gradients import ConjugateGradients
from sggp.solvers.core.base import Prepared, Solver
from sggp.solvers.core.driver import IterativeSolver, State
from sggp.solvers.core.problem import Problem
from sggp.solvers.core.solution import Record, Solution, Status
from sggp.solvers.settings import describe_solver, rebuild_solver
from sggp.solvers.sketch_and_project import SketchAndProject
from sggp.solvers.stochastic_dual_descent import StochasticDualDescent
from sggp.solvers.stochastic_gradient_descent import StochasticGradientDescent

__all__ = [
    "AlternatingProjections",
    "Auto",
    "Cholesky",
    "ConjugateGradients",
    "IterativeSolver",
    "Prepared",
    "Problem",
    "Record",
    "SketchAndProject",
    "Solution",
    "Solver",
    "State",
    "Status",
    "StochasticDualDescent",
    "StochasticGradientDescent",
    "describe_solver",
    "rebuild_solver",
]

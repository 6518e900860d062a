"""Gaussian processes solved iteratively, and the decisions they support.

Importing this package loads nothing but itself: every public name is fetched from its module on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sggp.lazy import names_on_demand

if TYPE_CHECKING:
    from sggp.errors import NotConverged, SggpError
    from sggp.estimator import GPRegressor
    from sggp.fitting import select_kernel
    from sggp.kernels import FeatureMap, TanimotoDotProduct, TanimotoMinMax, as_covariance, draw_features
    from sggp.operators import KernelOperator
    from sggp.parallel import distributed
    from sggp.posterior import PathwiseSamples, Posterior, condition
    from sggp.solvers import (
        AlternatingProjections,
        Auto,
        Cholesky,
        ConjugateGradients,
        SketchAndProject,
        Solution,
        Status,
        StochasticDualDescent,
    )

__version__ = "0.1.0"

__all__ = [
    "AlternatingProjections",
    "Auto",
    "Cholesky",
    "ConjugateGradients",
    "FeatureMap",
    "GPRegressor",
    "KernelOperator",
    "NotConverged",
    "PathwiseSamples",
    "Posterior",
    "SggpError",
    "SketchAndProject",
    "Solution",
    "Status",
    "StochasticDualDescent",
    "TanimotoDotProduct",
    "TanimotoMinMax",
    "__version__",
    "as_covariance",
    "condition",
    "distributed",
    "draw_features",
    "select_kernel",
]

# module -> its names among the public ones; a name listed here belongs into __all__ and the imports above, too
_NAMES_OF = {
    "sggp.errors": ("NotConverged", "SggpError"),
    "sggp.estimator": ("GPRegressor",),
    "sggp.fitting": ("select_kernel",),
    "sggp.kernels": ("FeatureMap", "TanimotoDotProduct", "TanimotoMinMax", "as_covariance", "draw_features"),
    "sggp.operators": ("KernelOperator",),
    "sggp.parallel": ("distributed",),
    "sggp.posterior": ("PathwiseSamples", "Posterior", "condition"),
    "sggp.solvers": (
        "AlternatingProjections",
        "Auto",
        "Cholesky",
        "ConjugateGradients",
        "SketchAndProject",
        "Solution",
        "Status",
        "StochasticDualDescent",
    ),
}

__getattr__, __dir__ = names_on_demand(__name__, _NAMES_OF, further=["__version__"])

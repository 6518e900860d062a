"""BoTorch face of sggp: a model whose posterior is a set of function samples.

    PathwiseGPModel        a BoTorch `Model`: exact GP, iterative solvers, path samples
    PathwiseMultiTaskGP    the same for tasks that learn from one another, as `MultiTaskGP` has it
    PathwiseMultiFidelityGP    the same with columns of fidelities, as `SingleTaskMultiFidelityGP` has it
    PathwiseMixedGP        the same with columns that name categories, as `MixedSingleTaskGP` has it
    JointGaussianModel     the same with joint Gaussians as posteriors, of few points: `PathwiseGPModel.gaussian()`
    PathwisePosterior      its posterior: solved mean, distinct paths
    PathSampler            the `MCSampler` that BoTorch's `get_sampler` finds for it
    PoolThompsonSampling   a `SamplingStrategy` for large candidate sets, without repeats
    register               teach BoTorch's own models the random features of further kernels

Importing this module registers sggp's own types in BoTorch's public dispatchers (`GetSampler`, `DrawMatheronPaths`)
and changes nothing else beyond what importing BoTorch itself does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sggp.errors import missing_extra
from sggp.lazy import names_on_demand

try:
    import botorch as _botorch  # noqa: F401
except ImportError as error:
    raise missing_extra("sggp.botorch needs BoTorch", "botorch", error) from error

from sggp.botorch.columns import categorical_kernel as _categorical_kernel  # noqa: F401
from sggp.botorch.gaussian import JointGaussianModel
from sggp.botorch.model import PathwiseGPModel
from sggp.botorch.paths import PosteriorPaths
from sggp.botorch.posterior import PathSampler, PathwisePosterior

if TYPE_CHECKING:
    from sggp.botorch.columns.categories import PathwiseMixedGP
    from sggp.botorch.columns.fidelities import PathwiseMultiFidelityGP
    from sggp.botorch.columns.tasks import PathwiseMultiTaskGP
    from sggp.botorch.features import register
    from sggp.botorch.pool import PoolThompsonSampling

__all__ = [
    "JointGaussianModel",
    "PathSampler",
    "PathwiseGPModel",
    "PathwiseMixedGP",
    "PathwiseMultiFidelityGP",
    "PathwiseMultiTaskGP",
    "PathwisePosterior",
    "PoolThompsonSampling",
    "PosteriorPaths",
    "register",
]

# a name listed here belongs into the imports above, too; what registers itself for types of others is loaded at once
_NAMES_OF = {
    "sggp.botorch.columns.categories": ("PathwiseMixedGP",),
    "sggp.botorch.columns.fidelities": ("PathwiseMultiFidelityGP",),
    "sggp.botorch.columns.tasks": ("PathwiseMultiTaskGP",),
    "sggp.botorch.features": ("register",),
    "sggp.botorch.pool": ("PoolThompsonSampling",),
}

__getattr__, __dir__ = names_on_demand(__name__, _NAMES_OF, further=__all__)

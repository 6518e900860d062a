"""Every argument of the linear models, given what it cannot use: an error of ours that names it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.linear import BayesianLinearModel, JacobianFeatures, LinearisedLaplace
from tests.entrances import COMPLEX, KINDS, NAN, NOTHING, RAGGED, SEEDS, TEXT, WHOLE, not_refused

PHI = torch.rand(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = PHI.sum(1)
SCALARS = [*TEXT, *KINDS, *COMPLEX, *RAGGED, True, NAN, float("inf"), -1.0, 0.0, torch.ones(2)]
NO_TENSOR = [*TEXT, *NOTHING, *KINDS, *RAGGED, 1.0, True, PHI.tolist(), PHI.numpy()]
TARGETS = [*NO_TENSOR, Y.long(), Y * 1j, Y * NAN, Y / 0, torch.ones(20, 1, 1), torch.ones(())]
METHODS = ["guess", None, 1, ["solve"], np.array(["solve"])]
FLAGS = ["yes", 1, None, 0.0]
MODEL = BayesianLinearModel(prior_precision=1.0, noise_variance=0.1, num_samples=2)
FIT = MODEL.fit(PHI, Y, generator=0)
NETWORK = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double().eval()


def _laplace(**changes: object) -> LinearisedLaplace:
    return LinearisedLaplace(**{"network": NETWORK, "prior_precision": 1.0, "noise_variance": 0.1, **changes})


def _of(**changes: object) -> JacobianFeatures:
    return JacobianFeatures(**{"network": NETWORK, "inputs": PHI, **changes})


ENTRANCES = {
    **{
        name: (lambda v, name=name: BayesianLinearModel(**{name: v}), SCALARS)
        for name in ("prior_precision", "noise_variance", "tolerance", "step_tolerance")
    },
    **{
        name: (lambda v, name=name: BayesianLinearModel(**{name: v}), [*WHOLE, 0])
        for name in ("num_samples", "max_steps", "probes")
    },
    "prior_scale": (lambda v: BayesianLinearModel(prior_scale=v), ["jeffreys", 1.0, True, [1.0], np.ones(3)]),
    "solver": (lambda v: BayesianLinearModel(solver=v), ["cg", None, 1, object()]),
    "features": (lambda v: MODEL.fit(v, Y), NO_TENSOR),
    "y": (lambda v: MODEL.fit(PHI, v), TARGETS),
    "precision": (
        lambda v: MODEL.fit(PHI, Y, precision=v),
        [*TEXT, *KINDS, *RAGGED, 1.0, -torch.ones(20), torch.ones(19), Y * NAN, Y.long()],
    ),
    "seed": (lambda v: MODEL.fit(PHI, Y, generator=v), SEEDS),
    "on_failure": (lambda v: MODEL.fit(PHI, Y, on_failure=v), ["shout", None, 1, ["warn"]]),
    "mean: features": (FIT.mean, NO_TENSOR),
    "samples: features": (FIT.samples, NO_TENSOR),
    "variance: features": (FIT.variance, [*NO_TENSOR, torch.ones(4, 2)]),
    "variance: method": (lambda v: FIT.variance(PHI, method=v), METHODS),
    "variance: observation_noise": (lambda v: FIT.variance(PHI, observation_noise=v), FLAGS),
    "covariance: method": (lambda v: FIT.covariance(PHI, method=v), METHODS),
    "laplace: network": (lambda v: _laplace(network=v).fit(PHI, Y), [*TEXT, *NOTHING, *KINDS, 1.0]),
    "laplace: likelihood": (lambda v: _laplace(likelihood=v), ["poisson", None, 1, ["softmax"]]),
    "laplace: g_prior": (lambda v: _laplace(g_prior=v), FLAGS),
    "laplace: refine": (lambda v: _laplace(refine=v), FLAGS),
    "laplace: x": (lambda v: _laplace().fit(v, Y), [*NO_TENSOR, torch.ones(0, 3), torch.ones(())]),
    "laplace: y": (lambda v: _laplace().fit(PHI, v), [*NO_TENSOR, torch.ones(19), Y.long()]),
    "jacobian: batch_size": (lambda v: _of(batch_size=v), [*WHOLE, 0]),
    "jacobian: columns": (lambda v: _of(columns=v), [*WHOLE, 0]),
    "jacobian: memory_budget": (
        lambda v: _of(memory_budget=v),
        [*TEXT, *NOTHING, *KINDS, *COMPLEX, True, NAN],
    ),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_cannot_be_used_is_refused_by_name(entrance):
    assert not_refused(*ENTRANCES[entrance], name=entrance.rsplit(" ", 1)[-1]) == []

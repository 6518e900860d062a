"""Every argument of every entrance, given what it cannot use: an error of ours that names it."""

from __future__ import annotations

import gpytorch
import numpy as np
import pandas as pd
import pytest
import torch

from sggp.operators import InducingOperator, KernelOperator
from sggp.posterior import Posterior, condition
from tests.entrances import (
    COMPLEX,
    KINDS,
    NAN,
    NOTHING,
    NUMBERS,
    PATHS,
    RAGGED,
    SEEDS,
    TEXT,
    WHOLE,
    not_refused,
)
from tests.solvers.dense import matern

X = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.sin(3 * X).sum(1)
TABLES = [X.tolist(), X.numpy(), pd.DataFrame(X.numpy())]
WITHOUT_VALUES = [torch.ones(20, 2, device="meta"), X.to_sparse()]
ROWS = [
    *WITHOUT_VALUES, *TEXT, *NOTHING, *KINDS, *COMPLEX, *RAGGED, *TABLES, 1.0, True,
    torch.tensor(1.0), torch.ones(20), torch.ones(20, 2, 2), torch.ones(0, 2), X * NAN, X / 0,
]  # fmt: skip
TARGETS = [
    Y.to("meta"), Y.to_sparse(),
    *TEXT, *NOTHING, *KINDS, *COMPLEX, *RAGGED, Y.tolist(), Y.numpy(), pd.Series(Y.numpy()), 1.0, True,
    torch.tensor(1.0), torch.ones(19), torch.ones(20, 1), torch.ones(0), Y * NAN, Y / 0, Y * 1j,
]  # fmt: skip
POINTS = [
    *WITHOUT_VALUES, *TEXT, *NOTHING, *KINDS, *COMPLEX, *RAGGED, 1.0, True, torch.tensor(1.0), torch.ones(2),
    torch.ones(4, 3), X * NAN, X / 0, np.array([[True, False]]), pd.DataFrame({"a": ["x"]}),
]  # fmt: skip
BUDGETS = [*TEXT, *NOTHING, *KINDS, *COMPLEX, *RAGGED, True, NAN, 0, -1.0]
DTYPES = ["float32", float, np.float32, torch.float16, torch.int64, torch.complex64, 32]
SOLVERS = ["cg", 1, object(), gpytorch.kernels.RBFKernel(), type(matern(2))]


def _conditioned(**changes: object) -> Posterior:
    arguments = {
        "kernel": matern(2),
        "x": X,
        "y": Y,
        "noise_variance": 0.1,
        "num_samples": 2,
        "num_features": 8,
    }
    return condition(**{**arguments, "generator": 0, **changes})


POSTERIOR = _conditioned()
CENTRES = [v for v in ROWS if v is not None and not isinstance(v, int | float)]

ENTRANCES = {
    "kernel": (lambda v: _conditioned(kernel=v), [*TEXT, *NOTHING, *KINDS, 1.0, gpytorch.kernels.RBFKernel]),
    "x": (lambda v: _conditioned(x=v), ROWS),
    "y": (lambda v: _conditioned(y=v), TARGETS),
    "noise_variance": (
        lambda v: _conditioned(noise_variance=v),
        [*NUMBERS, *NOTHING, torch.ones(19), torch.ones(20, 1), Y.to("meta")],
    ),
    "mean": (lambda v: _conditioned(mean=v), [*TEXT, *NOTHING, *KINDS, *COMPLEX, *RAGGED, True, NAN, torch.ones(2)]),
    "solver": (lambda v: _conditioned(solver=v), SOLVERS),
    "num_samples": (lambda v: _conditioned(num_samples=v), WHOLE),
    "num_features": (lambda v: _conditioned(num_features=v), [*WHOLE, 0]),
    "centres": (lambda v: _conditioned(centres=v), [*CENTRES, 0, -3, 2.5, True, torch.ones(3, 3)]),
    "seed": (lambda v: _conditioned(generator=v), SEEDS),
    "tolerance": (lambda v: _conditioned(tolerance=v), [*NUMBERS, 0.0, [0.1, 0.1, 0.1], torch.ones(2, 2)]),
    "max_epochs": (lambda v: _conditioned(max_epochs=v), [*TEXT, *KINDS, *COMPLEX, *RAGGED, True, NAN, -1.0]),
    "max_seconds": (lambda v: _conditioned(max_seconds=v), [*TEXT, *KINDS, *COMPLEX, *RAGGED, True, NAN, -1.0]),
    "on_failure": (lambda v: _conditioned(on_failure=v), ["shout", None, 1, True, ["warn"]]),
    "dtype": (lambda v: _conditioned(dtype=v), DTYPES),
    "memory_budget": (lambda v: _conditioned(memory_budget=v), BUDGETS),
    "checkpoint": (lambda v: _conditioned(checkpoint=v), PATHS[1:]),
    "mean: points": (POSTERIOR.mean, POINTS),
    "variance: points": (POSTERIOR.variance, POINTS),
    "variance_error: points": (POSTERIOR.variance_error, POINTS),
    "covariance_matrix: points": (POSTERIOR.covariance_matrix, POINTS),
    "observation_noise": (
        lambda v: POSTERIOR.variance(X, v),
        [v for v in [*NUMBERS, *NOTHING, torch.ones(19), torch.ones(3, 20)] if v is not True],
    ),
    "method": (lambda v: POSTERIOR.variance(X, method=v), ["guess", None, 1, ["solve"], np.array(["solve"])]),
    "update: x": (lambda v: POSTERIOR.update(v, Y), [*ROWS, torch.ones(20, 3)]),
    "update: y": (lambda v: POSTERIOR.update(X, v), TARGETS),
    "update: noise_variance": (lambda v: POSTERIOR.update(X, Y, noise_variance=v), [*NUMBERS, torch.ones(19)]),
    "update: seed": (lambda v: POSTERIOR.update(X, Y, generator=v), SEEDS),
    "more_samples: num_samples": (POSTERIOR.more_samples, [*WHOLE, 0]),
    "more_samples: seed": (lambda v: POSTERIOR.more_samples(1, v), SEEDS),
    "save: path": (POSTERIOR.save, PATHS),
    "load: path": (Posterior.load, PATHS),
    "samples: points": (POSTERIOR.samples, POINTS),
    "paired: points": (POSTERIOR.samples.paired, [*POINTS, torch.ones(3, 4, 2), torch.ones(2, 2)]),
    "select: indices": (POSTERIOR.samples.select, [*TEXT, *NOTHING, *KINDS, *COMPLEX, *RAGGED, 0.5, NAN, [2], True]),
    "KernelOperator: x": (lambda v: KernelOperator(matern(2), v, 0.1), ROWS),
    "KernelOperator: noise_variance": (lambda v: KernelOperator(matern(2), X, v), [*NUMBERS, *NOTHING, torch.ones(19)]),
    "KernelOperator: dtype": (lambda v: KernelOperator(matern(2), X, 0.1, dtype=v), DTYPES),
    "KernelOperator: memory_budget": (lambda v: KernelOperator(matern(2), X, 0.1, memory_budget=v), BUDGETS),
    "KernelOperator: kernel": (lambda v: KernelOperator(v, X, 0.1), [*TEXT, *NOTHING, *KINDS, 1.0]),
    "InducingOperator: x": (lambda v: InducingOperator(matern(2), v, X[:3], 0.1), ROWS),
    "InducingOperator: z": (lambda v: InducingOperator(matern(2), X, v, 0.1), [*ROWS, torch.ones(3, 3)]),
    "InducingOperator: noise_variance": (
        lambda v: InducingOperator(matern(2), X, X[:3], v), [*NUMBERS, *NOTHING, torch.ones(19)],
    ),
    "InducingOperator: memory_budget": (
        lambda v: InducingOperator(matern(2), X, X[:3], 0.1, memory_budget=v), BUDGETS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_cannot_be_used_is_refused_by_name(entrance):
    assert not_refused(*ENTRANCES[entrance], name=entrance.rsplit(" ", 1)[-1]) == []

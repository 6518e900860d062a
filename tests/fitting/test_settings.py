"""Settings of the estimator and of the BoTorch model: what cannot be used is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sggp.errors import SggpError
from sggp.estimator import GPRegressor

X = np.random.default_rng(0).random((30, 2))
Y = X.sum(axis=1)
NOISE = ["gaussian", -1.0, float("nan"), True]


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("noise_variance", [*NOISE, 1j, [0.1, 0.2], np.ones(29), {}]),
        ("optimizer", ["adam", 3, True, []]),
        ("solver", ["cg", int, 3]),
        ("kernel", ["cubic", 3, [1], object()]),
        ("num_samples", [1.5, -1, "64", True, None]),
        ("num_features", [0, 1.5, "64", True, None]),
        ("normalize_y", ["no", None, 2]),
        ("device", ["gpu", 3.5, object()]),
        ("verbose", ["x", -1, 0.5, None]),
    ],
)
def test_the_estimator_refuses_by_name(setting: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(SggpError, match=setting) as refused:
            GPRegressor(**{setting: value}).fit(X, Y)
        assert "got" in str(refused.value) or "unknown" in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("mean", ["a", float("nan"), None, True]),
        ("learning", [3, "exact"]),
        ("noise_variance", NOISE),
        ("solver", ["cg", int]),
        ("tolerance", ["a", -1.0, float("nan")]),
        ("covar_module", ["rbf", 3]),
        ("num_samples", [1, 2.5, True]),
    ],
)
def test_the_botorch_model_refuses_by_name(setting: str, values: list[Any]) -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from sggp.botorch import PathwiseGPModel

    x, y = torch.from_numpy(X), torch.from_numpy(Y)[:, None]
    for value in values:
        with pytest.raises(SggpError, match=setting):
            PathwiseGPModel(x, y, **{setting: value})
    with pytest.raises(SggpError, match="no_such_option"):
        PathwiseGPModel(x, y, learning={"no_such_option": 1})

"""Settings of the estimator and of the BoTorch model: what cannot be used is refused by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sggp.errors import InputError, SggpError
from sggp.estimator import GPRegressor
from sggp.hyperparameters import named_kernel
from sggp.hyperparameters.defaults import noise_prior

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


def test_the_default_dtype_of_torch_changes_no_kernel() -> None:
    """What is not given as float64 is rounded to it: the length scale of a search's start, and the priors."""
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float16, torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            kernel, noise = named_kernel("matern32", 3), noise_prior()
            base = kernel.base_kernel
            assert base.lengthscale.tolist() == [pytest.approx([0.6 * 3**0.5] * 3, rel=1e-14)]
            assert float(base.lengthscale_prior.loc) == pytest.approx(math.log(0.6 * 3**0.5) + 1, rel=1e-14)
            assert float(noise.loc) == pytest.approx(math.log(2.5e-3) + 4, rel=1e-14)
    finally:
        torch.set_default_dtype(before)


def test_another_default_device_is_refused_with_what_to_do() -> None:
    """As of `torch.set_default_device("cuda")`: generators of the CPU draw nothing there."""
    with (
        torch.device("meta"),
        pytest.raises(InputError, match=r"default device is meta.*with torch.device\('cpu'\)"),
    ):
        GPRegressor(random_state=0).fit(X, Y)

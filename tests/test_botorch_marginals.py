"""Quantiles and densities of `PathwiseGPModel`'s posteriors: those of the normal marginals, as BoTorch shapes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("botorch")
from botorch.models import SingleTaskGP
from botorch.models.transforms import Log, Standardize

from sggp.botorch import PathwiseGPModel
from sggp.errors import DtypeError, InputError
from tests.test_botorch import NOISE, build, data, kernel


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    return torch.rand(4, 3, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("transform", [None, Standardize(m=1)])
@pytest.mark.parametrize("noisy", [False, True])
def test_shapes_and_numbers_are_those_of_botorchs_own_posterior(transform, noisy, points):
    x, y = data()
    model = PathwiseGPModel(
        x,
        y,
        covar_module=kernel(),
        noise_variance=NOISE,
        optimizer=None,
        generator=0,
        outcome_transform=transform,
    )
    ours = model.posterior(points, observation_noise=noisy)
    theirs = model.gaussian().posterior(points, observation_noise=noisy)
    assert type(SingleTaskGP(x, y).posterior(points)) is type(theirs)  # a GPyTorchPosterior
    for levels in (torch.tensor(0.1), torch.tensor([0.3]), torch.tensor([0.025, 0.5, 0.975])):
        expected = theirs.quantile(levels.double())
        assert ours.quantile(levels).shape == expected.shape
        torch.testing.assert_close(ours.quantile(levels), expected, rtol=1e-6, atol=1e-7)
        at = levels.double() * float(y.std()) + float(y.mean())
        torch.testing.assert_close(ours.density(at), theirs.density(at), rtol=1e-5, atol=1e-7)


def test_float32_answers_are_float32(points):
    x, y = data()
    settings = {"covar_module": kernel(), "noise_variance": NOISE, "optimizer": None, "generator": 0}
    found = (
        PathwiseGPModel(x.float(), y.float(), **settings)
        .posterior(points.float())
        .quantile(torch.tensor(0.9))
    )
    assert found.dtype == torch.float32
    expected = build().posterior(points).quantile(torch.tensor(0.9))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_what_has_no_normal_marginals_or_no_level_is_refused(points):
    x, y = data()
    settings = {"covar_module": kernel(), "noise_variance": NOISE, "optimizer": None, "generator": 0}
    y = y - y.min() + 1
    for dtype in (torch.float64, torch.float32):
        model = PathwiseGPModel(x.to(dtype), y.to(dtype), outcome_transform=Log(), **settings)
        with pytest.raises(NotImplementedError, match="not normal"):
            model.posterior(points.to(dtype)).quantile(torch.tensor(0.5))
        with pytest.raises(NotImplementedError, match="not normal"):
            model.posterior(points.to(dtype)).density(torch.tensor(0.5))
    plain = build()
    for level in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="strictly between 0 and 1"):
            plain.posterior(points).quantile(torch.tensor([0.5, level]))
    with pytest.raises((DtypeError, InputError), match="value"):
        plain.posterior(points).quantile("0.5")

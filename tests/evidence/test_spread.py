"""The noise model: found where there is one, left alone where there is none, honest on new rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.evidence.leave_one_out import Observed, leave_out
from sggp.evidence.spread import NoiseModel, learn_noise_model, leave_out_with
from sggp.hyperparameters import named_kernel
from sggp.predictive import PredictiveDistribution


def table(spread, n=700, seed=0, noise=0.04):
    """y = sin + spread(x)·ε on the square; the kernel is about right, the noise variance is the average one."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n, 2, generator=g, dtype=torch.float64) - 1
    eps = torch.randn(n, generator=g, dtype=torch.float64)
    y = torch.sin(3 * x[:, 0]) + spread(x) * eps
    kernel = named_kernel("matern52", 2).requires_grad_(False)
    kernel.base_kernel.lengthscale = 1.0
    return Observed(kernel, x, y[:, None], torch.full((n,), noise, dtype=torch.float64))


def half(x):
    return torch.where(x[:, 1] > 0, 0.28, 0.02)


def test_noise_of_one_half_is_found():
    observed = table(half)
    model = learn_noise_model(observed, float(observed.noise[0]), torch.Generator().manual_seed(1))
    assert model.surface is not None
    gains = {score.name: (score.gain, score.error) for score in model.scores}
    assert gains["depending on the input"][0] > 5 * gains["depending on the input"][1]
    x = torch.tensor([[0.1, 0.6], [-0.4, -0.6]], dtype=torch.float64)
    left = torch.full((2,), 0.045, dtype=torch.float64)
    noisy, quiet = model.log_scale(x, torch.sin(3 * x[:, 0]), left)
    assert float(noisy - quiet) > 2.0  # the truth: 2·log 14 = 5.3, less what the fitted mean is off by


def test_one_noise_for_all_rows_is_left_alone():
    observed = table(lambda x: 0.2 * torch.ones(len(x), dtype=torch.float64), seed=2)
    model = learn_noise_model(observed, float(observed.noise[0]), torch.Generator().manual_seed(1))
    assert not model.changes
    assert model.reason.startswith("one normal noise: ")
    for score in model.scores[1:]:
        assert score.gain <= 2 * score.error


@pytest.mark.parametrize("repeated", [False, True])
def test_uniform_noise_gets_a_flat_law_whose_intervals_hold_what_they_say(repeated):
    n = 900
    g = torch.Generator().manual_seed(7)
    observed = table(lambda x: torch.zeros(len(x), dtype=torch.float64), n, 7, 0.08)
    x = observed.x
    if repeated:
        x = x[: n // 3].repeat(3, 1)
    noise = torch.rand(n, generator=g, dtype=torch.float64) - 0.5
    y = torch.sin(3 * x[:, 0]) + noise
    observed = Observed(observed.kernel, x, y[:, None], observed.noise)
    model = learn_noise_model(observed, float(observed.noise[0]), torch.Generator().manual_seed(1))
    assert model.tail.power > 5
    assert model.reason.startswith("rescaled, with tails, of a shape of its own (flat, power ")
    assert model.scores[-1].gain > 2 * model.scores[-1].error
    law = PredictiveDistribution([0.0], [np.sqrt(0.08 * np.exp(model.tail.log_scale))], **model.tail.law)
    low, high = law.interval(0.95)
    assert float(high[0]) == pytest.approx(0.475, abs=0.04)  # of uniform noise; a normal one's end is .57
    assert float(low[0]) == -float(high[0])


def test_a_wrong_noise_variance_is_corrected():
    observed = table(lambda x: 0.2 * torch.ones(len(x), dtype=torch.float64), noise=0.4, seed=3)
    model = learn_noise_model(observed, float(observed.noise[0]), torch.Generator().manual_seed(1))
    assert model.changes
    left, log_scale = leave_out_with(model, observed, torch.arange(len(observed.x)))
    z_square = (observed.residual[:, 0] - left.mean[:, 0]) ** 2 / (left.variance * log_scale.exp())
    assert float(z_square.mean()) == pytest.approx(1.0, abs=0.15)


def test_what_left_out_rows_say_holds_for_new_rows():
    """The density of new rows under the model is that of the left-out ones, within two standard errors of both."""
    observed, other = table(half, 900, 4), table(half, 900, 5)
    model = learn_noise_model(observed, float(observed.noise[0]), torch.Generator().manual_seed(1))
    told = max(score.log_density for score in model.scores)
    every = Observed(
        observed.kernel,
        torch.cat([observed.x, other.x]),
        torch.cat([observed.residual, other.residual]),
        torch.cat([observed.noise, other.noise]),
    )
    inner = observed.noise if model.row_noise is None else model.row_noise
    matrix = every.kernel(observed.x).to_dense() + inner.diag()
    cross = every.kernel(other.x, observed.x).to_dense()
    mean = (cross @ torch.linalg.solve(matrix, observed.residual))[:, 0]
    latent = every.kernel.outputscale - (cross * torch.linalg.solve(matrix, cross.T).T).sum(1)
    variance = latent + 0.04
    squared = variance * model.log_scale(other.x, mean, variance).exp()
    density = PredictiveDistribution(mean, squared.sqrt(), **model.tail.law).logpdf(other.residual[:, 0])
    plain = PredictiveDistribution(mean, variance.sqrt()).logpdf(other.residual[:, 0])
    error = density.std() / 30
    assert density.mean() == pytest.approx(told, abs=3 * error)
    assert density.mean() > plain.mean() + 5 * error


def test_left_out_rows_do_not_see_their_own_residual():
    """With one target moved far, its own left-out scale stays where it was, to the surface's standardisation."""
    observed = table(half, 300, 6)
    rows = torch.arange(300)
    model = learn_noise_model(observed, float(observed.noise[0]), torch.Generator().manual_seed(1))
    assert model.surface is not None
    surface = model.surface
    values = surface.observed.residual.clone()
    values[7] += 50.0
    moved = type(surface)(
        Observed(surface.observed.kernel, surface.observed.x, values, surface.observed.noise),
        surface.rows,
        surface.columns,
        surface.location,
        surface.scale,
        surface.offset,
        surface.unit,
    )
    here, there = surface.left_out(), moved.left_out()
    assert float(here[7]) == pytest.approx(float(there[7]), abs=1e-9)
    assert float((here - there)[rows != 7].abs().max()) > 1e-3


def test_many_rows_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr("sggp.evidence.leave_one_out.MOST_ROWS", 250)
    monkeypatch.setattr("sggp.evidence.spread._LEARNT_FROM", 100)
    observed = table(half, 600, 7)
    model = learn_noise_model(observed, float(observed.noise[0]), torch.Generator().manual_seed(1))
    assert model.surface is not None
    assert len(model.surface.rows) == 250
    assert model.row_noise is None
    left, log_scale = leave_out_with(model, observed, torch.arange(600))
    assert log_scale.shape == (600,)
    noisy = observed.x[:, 1] > 0
    assert float(log_scale[noisy].mean() - log_scale[~noisy].mean()) > 2


def test_without_a_surface_every_row_has_one_scale():
    observed = table(half, 120, 8)
    left, log_scale = leave_out_with(NoiseModel(), observed, torch.arange(120))
    torch.testing.assert_close(left.mean, leave_out(observed, torch.arange(120)).mean)
    assert np.array_equal(log_scale.numpy(), np.zeros(120))

"""Rows ahead of a table that drifts: which tables those are, and how well a model finds what comes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sggp import GPRegressor
from sggp.evidence.drift import GainAhead, drifts, gain_ahead, log_density_ahead
from sggp.evidence.leave_one_out import Observed, predict
from sggp.hyperparameters import named_kernel


def table(n, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.c_[rng.uniform(-1, 1, n), np.linspace(0, 3, n)])


def observed(x, y, name="matern32", size=0.5):
    kernel = named_kernel(name, 2).requires_grad_(False)
    kernel.base_kernel.lengthscale = size
    return Observed(kernel, x, y, torch.full((len(x),), 0.01, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x, True),
        (lambda x: x.flip(0), True),  # newest first
        (lambda x: x.round(decimals=2), True),  # some times twice
        (lambda x: x.round(), False),  # sorted by a category
        (lambda x: x[torch.arange(len(x)).roll(1)], False),
        (lambda x: x[:, :1], False),
        (lambda x: x[:, 1:], False),  # one column, sorted
        (lambda x: x[:99], False),
        (lambda x: (10 * x).long(), False),
    ],
)
def test_a_table_drifts_where_a_column_never_turns_back(change, expected):
    assert drifts(change(table(160))) is expected


def test_densities_ahead_are_those_of_the_rows_before_alone():
    x, y = table(43), torch.randn(43, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = observed(x, y)
    found = log_density_ahead(model)
    ends = [round(43 * j / 8) for j in range(9)]
    for given in range(1, 8):
        for block in range(8):
            if block < given:
                assert math.isnan(found[given - 1, block])
                continue
            rows = slice(ends[block], ends[block + 1])
            mean, latent = predict(model.part(torch.arange(ends[given])), x[rows])
            law = torch.distributions.Normal(mean, (latent + 0.01).sqrt()[:, None])
            assert float(found[given - 1, block]) == pytest.approx(float(law.log_prob(y[rows]).mean()))


def test_a_model_wins_ahead_beyond_the_error_and_at_no_cost_farther_on():
    x = table(160)
    y = (torch.sin(3 * x[:, :1]) + x[:, 1:]).double()
    right, wrong = observed(x, y, size=1.0), observed(x, y, size=0.05)
    ahead = gain_ahead(right, wrong)
    assert ahead.wins
    assert not gain_ahead(wrong, right).wins
    assert "farther on" in str(ahead)
    assert not GainAhead(1.0, 0.6, 0.1).wins
    assert not GainAhead(1.0, 0.1, -0.1).wins


def test_a_smooth_kernel_must_win_on_rows_ahead_as_well():
    """Sines that interpolate best with the smoother kernel; ahead in the drifting column it is behind."""
    rng = np.random.default_rng(2)
    x = np.c_[np.arange(150.0), rng.uniform(-1, 1, (150, 2))]
    y = np.sin(3 * x[:, 1]) + 0.5 * np.cos(2 * x[:, 2]) + 0.3 * np.sin(x[:, 0] / 40) + x[:, 0] / 150
    y += 0.1 * rng.standard_normal(150)
    mixed = rng.permutation(150)
    late, any_time = (GPRegressor(noise="constant", num_samples=2).fit(x[i], y[i]) for i in (..., mixed))
    assert late.kernel_.base_kernel.nu == 1.5
    assert "on rows ahead" in late.fit_result_.message
    assert any_time.kernel_.base_kernel.nu == 2.5
    assert "ahead" not in any_time.fit_result_.message

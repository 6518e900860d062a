"""Tables in which most rows repeat an input: what a row's repeats say of it is not what is known of new inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp import GPRegressor
from sggp.evidence.aside import inputs_aside, mean_and_error, repeated_inputs, rows_aside
from sggp.evidence.judging import held_out
from sggp.fitting.selection import _held_out
from sggp.posterior.merge import group_rows


def inputs(n, rng):
    x = rng.uniform(-2, 2, (n, 3))
    return x, np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] ** 2


def copies(rng):
    """A file that was appended to itself: each measurement stands there five times."""
    x, f = inputs(300, rng)
    y = f + 0.1 * rng.standard_normal(300)
    return np.tile(x[:40], (5, 1)), np.tile(y[:40], 5), x[40:], y[40:]


def whole_numbers(rng):
    x, y, new, asked = copies(rng)
    return x, np.round(y), new, np.round(asked)


def replicates(rng):
    """Each input was measured five times, with an error far below what is unknown elsewhere."""
    x, f = inputs(300, rng)
    y = np.tile(f[:40], 5) + 1e-4 * rng.standard_normal(200)
    return np.tile(x[:40], (5, 1)), y, x[40:], f[40:] + 1e-4 * rng.standard_normal(260)


@pytest.mark.parametrize("make", [copies, whole_numbers, replicates])
def test_new_inputs_are_predicted_no_worse_than_with_one_noise(make):
    x, y, new, asked = make(np.random.default_rng(0))
    settings = {"random_state": 0, "num_samples": 4, "num_features": 64}
    ours = GPRegressor(**settings).fit(x, y).predict_dist(new)
    plain = GPRegressor("matern32", noise="constant", **settings).fit(x, y).predict_dist(new)
    gain = ours.logpdf(asked) - plain.logpdf(asked)
    assert gain.mean() > -2 * gain.std() / len(gain) ** 0.5 - 1e-4
    assert ours.crps(asked).mean() < 1.05 * plain.crps(asked).mean()


def test_copies_do_not_take_a_given_noise_to_nothing():
    x, y, _, _ = copies(np.random.default_rng(0))
    model = GPRegressor(noise_variance=np.full(200, 0.01), random_state=0, num_samples=4).fit(x, y)
    a, b = model.noise_adjustment_
    assert a * 0.01 + b > 1e-3


def test_a_noise_that_varies_is_found_among_repeats():
    """Thirty inputs, each measured six times: what varies at known inputs holds between them."""
    rng = np.random.default_rng(3)
    x = np.repeat(np.linspace(-2, 2, 30)[:, None], 6, axis=0)
    y = np.sin(2 * x[:, 0]) + np.where(x[:, 0] > 0, 0.5, 0.02) * rng.standard_normal(180)
    model = GPRegressor(random_state=0, num_samples=4).fit(x, y)
    quiet, noisy = model.noise_std(np.array([[-1.0], [1.0]]))
    assert noisy > 3 * quiet


def test_few_repeats_are_rows_as_all_others():
    x = torch.arange(20.0)[:, None]
    assert repeated_inputs(x) is None
    assert repeated_inputs(torch.cat([x, x[:9]])) is not None
    assert repeated_inputs(torch.cat([x, x[:6]])) is None
    assert repeated_inputs(torch.ones(9, 1)) is None


@pytest.mark.parametrize("n", [90, 900, 4000])
def test_inputs_are_set_aside_with_all_of_their_rows(n):
    generator = torch.Generator().manual_seed(0)
    groups = group_rows(torch.randint(0, n // 3, (n, 1), generator=generator))
    splits = inputs_aside(groups, generator)
    assert len(splits) == len(rows_aside(n, generator))
    for aside, others in splits:
        assert not set(groups.member[aside].tolist()) & set(groups.member[others].tolist())
        assert len(aside) <= max(2000, n // 2)
    if n < 3000:
        assert sorted(torch.cat([aside for aside, _ in splits]).tolist()) == list(range(n))


def test_kernels_are_judged_on_new_inputs():
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)).repeat(5, 1)
    judged, rest = _held_out(x, torch.Generator().manual_seed(1))
    assert not {tuple(row) for row in x[judged].tolist()} & {tuple(row) for row in x[rest].tolist()}
    alone = [
        _held_out(x[:60], torch.Generator().manual_seed(1)),
        held_out(60, torch.Generator().manual_seed(1)),
    ]
    assert torch.equal(alone[0][0], alone[1][0])


def test_errors_that_rows_share_count_once():
    """The standard error of three values that are the same thing is that of one."""
    values = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    mean, error = mean_and_error(values, np.array([0, 0, 0, 1, 1, 1]))
    assert (mean, error) == pytest.approx((1.5, 0.5 / 2**0.5))
    assert mean_and_error(values, np.arange(6)) == pytest.approx(mean_and_error(values))

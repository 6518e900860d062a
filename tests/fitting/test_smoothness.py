"""The default kernel's one choice: Matérn-1/2 where it explains the data clearly better than Matérn-3/2."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gpytorch.kernels import ScaleKernel

from sggp import GPRegressor
from sggp.errors import InputError
from sggp.fitting.smoothness import fit_smoother_or_rougher
from sggp.hyperparameters import FitResult, named_kernel
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.kernels import TanimotoMinMax


def walk(n=500):
    """A Brownian path: as rough as Matérn-1/2."""
    rng = np.random.default_rng(0)
    return np.arange(n)[:, None] / n, np.cumsum(rng.standard_normal(n)) / np.sqrt(n)


def wave(n=500):
    x = np.arange(n)[:, None] / n
    return x, np.sin(9 * x[:, 0]) + 0.05 * np.random.default_rng(1).standard_normal(n)


def fitted(table, kernel=None):
    x, y = table
    model = GPRegressor(kernel, optimizer="nearest-neighbour", num_samples=0, random_state=0)
    return model.fit(x, y)


def result(value, kernel=None, **changes):
    kernel = named_kernel("matern32", 2) if kernel is None else kernel
    record = {"step": 5, "value": value, "gradient_norm": 0.0, "seconds": 1.0, "values": {}}
    base = FitResult(
        kernel, 0.1, 0.0, [record], value, "nearest-neighbour", 2.0, True, message="end", steps=5
    )
    return replace(base, **changes)


def test_a_rough_function_gets_the_rough_kernel_and_a_smooth_one_keeps_its_own():
    rough, smooth = fitted(walk()), fitted(wave())
    assert rough.kernel_.base_kernel.nu == 0.5
    assert "Matérn-1/2 +" in rough.fit_result_.message
    assert smooth.kernel_.base_kernel.nu == 1.5
    assert "Matérn-1/2 -" in smooth.fit_result_.message
    steps = [record["step"] for record in rough.trace_]
    seconds = [record["seconds"] for record in rough.trace_]
    assert steps == sorted(set(steps))
    assert steps[-1] == rough.fit_result_.steps
    assert seconds == sorted(seconds)
    assert seconds[-1] <= rough.fit_result_.seconds


def test_a_kernel_that_was_named_is_kept():
    assert fitted(walk(200), "matern32").kernel_.base_kernel.nu == 1.5


def test_few_rows_keep_the_default():
    x, y = walk(60)
    assert GPRegressor(num_samples=0).fit(x, y).kernel_.base_kernel.nu == 1.5


SMOOTH, ROUGH = named_kernel("matern32", 2), named_kernel("matern12", 2)


@pytest.mark.parametrize(("gain", "taken"), [(0.002, False), (0.004, True)])
def test_it_must_win_by_three_thousandths_of_a_nat_a_row(gain, taken):
    calls = []

    def fit(kernel, **settings):
        calls.append((kernel, settings))
        return result(100 * gain * (kernel.base_kernel.nu == 0.5), kernel)

    chosen = fit_smoother_or_rougher(SMOOTH, ROUGH, 100, fit)
    assert chosen.kernel.base_kernel.nu == (0.5 if taken else 1.5)
    assert chosen.message == f"end; Matérn-1/2 +{gain:.4f} nats a row beside Matérn-3/2"
    assert (chosen.seconds, chosen.steps, len(chosen.trace)) == (6.0, 15, 3)
    assert [record["step"] for record in chosen.trace] == [5, 10, 15]
    assert [record["seconds"] for record in chosen.trace] == [1.0, 3.0, 5.0]
    assert [settings.get("initial_noise_variance") for _, settings in calls] == [None, 0.1, 0.1]


@pytest.mark.parametrize(
    ("rough", "anew", "order", "taken"),
    [
        (0.0, 0.0, [1.5, 1.5, 0.5], "end 2"),
        (0.5, 0.0, [1.5, 1.5, 0.5, 0.5], "end 4"),
        (0.0, -1.0, [1.5, 1.5, 0.5, 1.5], "end 4"),
    ],
)
def test_a_smoother_one_that_still_climbs_is_fitted_anew_first(rough, anew, order, taken):
    """A trial would beat it by its further steps alone; and the better of the two is kept."""
    calls, starts = [], []

    def fit(kernel, **settings):
        calls.append(kernel.base_kernel.nu)
        starts.append((kernel, settings.get("initial_noise_variance")))
        value = 100 * (rough if kernel.base_kernel.nu == 0.5 else anew if len(calls) == 2 else 0.0)
        found = result(value, copy_kernel(kernel), message=f"end {len(calls)}")
        steps = [{**found.trace[0], "step": j, "value": 0.03 * j, "call": len(calls)} for j in (1, 2, 3)]
        return replace(found, trace=steps)

    chosen = fit_smoother_or_rougher(SMOOTH, ROUGH, 100, fit)
    assert calls == order
    assert starts[0] == starts[1] == (SMOOTH, None)
    assert chosen.message.startswith(taken)
    assert chosen.steps == 5 * len(calls)
    assert [record["call"] for record in chosen.trace] == [c + 1 for c in range(len(calls)) for _ in range(3)]


def test_the_rougher_one_starts_from_what_the_smoother_one_learnt():
    seen = []

    def fit(kernel, **_):
        seen.append((kernel.base_kernel.lengthscale.detach().clone(), float(kernel.outputscale.detach())))
        learnt = copy_kernel(kernel)
        learnt.base_kernel.lengthscale, learnt.outputscale = torch.tensor([[0.3, 4.0]]), 2.5
        return result(0.0, learnt)

    fit_smoother_or_rougher(SMOOTH, ROUGH, 10, fit)
    torch.testing.assert_close(seen[1][0], torch.tensor([[0.6, 8.0]], dtype=torch.float64), rtol=1e-6, atol=0)
    assert seen[1][1] == pytest.approx(2.5)
    assert float(ROUGH.outputscale.detach()) == pytest.approx(1.0)  # the caller's is left alone


def test_noise_given_per_point_is_not_started_from():
    settings = []

    def fit(kernel, **given):
        settings.append(given)
        return result(0.0, kernel, noise_variance=torch.ones(10))

    fit_smoother_or_rougher(SMOOTH, ROUGH, 10, fit)
    assert all(given.get("initial_noise_variance") is None for given in settings)


def test_a_constant_target_is_left_at_that():
    model = GPRegressor(optimizer="nearest-neighbour", num_samples=0).fit(walk(40)[0], np.ones(40))
    assert model.fit_result_.method == "constant target"


def test_kernels_without_length_scales_are_refused():
    with pytest.raises(InputError, match="ScaleKernel"):
        fit_smoother_or_rougher(SMOOTH, ScaleKernel(TanimotoMinMax()), 10, lambda k, **_: result(0.0, k))

"""The default kernel: candidates fitted without the judged rows, the winner with all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gpytorch.kernels import ScaleKernel

from sggp import GPRegressor
from sggp.errors import InputError
from sggp.fitting.selection import ROUGHEST_FIRST, fit_selected
from sggp.fitting.smoothness import started
from sggp.hyperparameters import FitResult, named_kernel
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.kernels import TanimotoMinMax


def walk(n=900):
    """A Brownian path: as rough as Matérn-1/2."""
    rng = np.random.default_rng(0)
    return rng.permutation(n)[:, None] / n, np.cumsum(rng.standard_normal(n)) / np.sqrt(n)


def rough(n=900):
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.standard_normal(n)) / np.sqrt(n)
    order = rng.permutation(n)
    return order[:, None] / n, path[order]


def wave(n=900):
    rng = np.random.default_rng(1)
    x = rng.random((n, 2))
    return x, np.sin(9 * x[:, 0]) * np.cos(4 * x[:, 1]) + 0.02 * rng.standard_normal(n)


def fitted(table, kernel=None):
    x, y = table
    model = GPRegressor(
        kernel, optimizer="nearest-neighbour", num_samples=0, noise="constant", random_state=0
    )
    return model.fit(x, y)


def test_a_rough_function_gets_a_rough_kernel_and_a_smooth_one_a_smooth_one():
    first, second = fitted(rough(300)), fitted(wave(300))
    assert first.kernel_selection_.chosen == "matern12"
    assert first.kernel_.base_kernel.nu == 0.5
    assert second.kernel_selection_.chosen in ("matern52", "rbf")
    assert first.kernel_selection_.reason in first.fit_result_.message
    steps = [record["step"] for record in first.trace_]
    seconds = [record["seconds"] for record in first.trace_]
    assert steps == sorted(set(steps))
    assert steps[-1] == first.fit_result_.steps
    assert seconds == sorted(seconds)


def test_a_kernel_that_was_named_is_kept():
    model = fitted(rough(300), "matern32")
    assert model.kernel_.base_kernel.nu == 1.5
    assert model.kernel_selection_ is None


CANDIDATES = {name: named_kernel(name, 2) for name in ROUGHEST_FIRST}
X = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.sin(3 * X[:, :1])
NOISE = torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def result(kernel, value=0.0, **changes):
    record = {"step": 5, "value": value, "gradient_norm": 0.0, "seconds": 1.0, "values": {}}
    base = FitResult(
        kernel, 0.1, 0.0, [record], value, "nearest-neighbour", 2.0, True, message="end", steps=5
    )
    return replace(base, **changes)


def run(fit, y=Y):
    return fit_selected(CANDIDATES, X, y, fit, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("y", "tried"),
    [
        (Y, ["matern32", "matern52", "rbf"]),
        ((5 * X[:, :1]).floor() % 2, ["matern12", "matern32", "matern52"]),
        (NOISE, list(ROUGHEST_FIRST)),
    ],
)
def test_what_lies_beyond_an_excluded_kernel_is_not_tried(y, tried):
    _, selection = run(lambda kernel, **_: result(copy_kernel(kernel)), y)
    assert [score.name for score in selection.scores] == tried
    for name in ROUGHEST_FIRST:
        assert (f"{name} not tried" in selection.reason) == (name not in tried)


def test_no_trial_sees_a_judged_row_and_the_last_fit_sees_all():
    seen, calls = [], []

    def fit(kernel, rows=None, **settings):
        seen.append(rows)
        calls.append(settings.get("initial_noise_variance"))
        return result(copy_kernel(kernel))

    chosen, selection = run(fit)
    *trials, last = seen
    assert last is None
    assert len(trials) == 4
    assert all(torch.equal(rows, trials[0]) for rows in trials)
    assert len(trials[0]) == 150
    assert selection.rows == 50
    assert calls == [None, *[0.1] * 3, None]
    assert (chosen.steps, len(chosen.trace), chosen.seconds) == (25, 5, 10.0)


def test_candidates_start_from_what_the_first_fit_learnt():
    starts = {}

    def fit(kernel, rows=None, **_):
        starts.setdefault(getattr(kernel.base_kernel, "nu", None), []).append(kernel)
        learnt = copy_kernel(kernel)
        learnt.base_kernel.lengthscale, learnt.outputscale = torch.tensor([[0.3, 4.0]]), 2.5
        return result(learnt)

    run(fit, NOISE)
    scales = {
        nu: float(kernels[nu == 1.5].base_kernel.lengthscale[0, 1].detach()) for nu, kernels in starts.items()
    }
    assert scales == pytest.approx({1.5: 4.0, 2.5: 3.2, 0.5: 8.0, None: 2.4}, rel=1e-5)
    assert float(CANDIDATES["matern12"].outputscale.detach()) == pytest.approx(
        1.0
    )  # the caller's is left alone


@pytest.mark.parametrize(("anew", "kept"), [(1.0, 4.0), (-1.0, 0.3)])
@pytest.mark.parametrize(("last", "further"), [(-1.0, 1), (2.0, 0)])
def test_a_first_fit_that_still_climbs_is_made_anew_and_the_better_one_kept(anew, kept, last, further):
    """And the winner goes on from its trial where the fit to all rows ends less likely a row."""
    calls = []

    def fit(kernel, rows=None, **settings):
        calls.append((kernel, rows, settings))
        learnt, steps = copy_kernel(kernel), settings.get("max_steps")
        learnt.base_kernel.lengthscale = 4.0 if steps == 300 else 0.3
        found = result(learnt, last if rows is None else anew if steps == 300 else 0.0)
        return replace(found, trace=[{**found.trace[0], "step": j, "value": 0.03 * j} for j in (1, 2, 3)])

    run(fit)
    assert float(calls[2][0].base_kernel.lengthscale[0, 0].detach()) == pytest.approx(
        kept, rel=1e-5
    )  # Matérn-3/2 goes on
    whole = [settings.get("max_steps") for _, rows, settings in calls if rows is None]
    assert whole == [None, *[350] * further]


def test_noise_given_per_point_is_not_started_from():
    settings = []

    def fit(kernel, rows=None, **given):
        settings.append(given)
        return result(copy_kernel(kernel), noise_variance=torch.ones(200 if rows is None else len(rows)))

    fit_selected(CANDIDATES, X, Y, fit, torch.Generator().manual_seed(0), torch.ones(200))
    assert all(given.get("initial_noise_variance") is None for given in settings)


def test_a_constant_target_is_left_at_that():
    model = GPRegressor(optimizer="nearest-neighbour", num_samples=0).fit(walk(40)[0], np.ones(40))
    assert model.fit_result_.method == "constant target"
    assert model.kernel_selection_ is None


def test_kernels_without_length_scales_are_refused():
    with pytest.raises(InputError, match="ScaleKernel"):
        started(ScaleKernel(TanimotoMinMax()), CANDIDATES["rbf"])


def test_fits_without_the_judged_rows_follow_the_recipe_of_all_rows(monkeypatch):
    """Where the rows that are left would be few enough for another one."""
    monkeypatch.setattr("sggp.hyperparameters.auto.EXACT_ROWS", 250)
    x, y = rough(300)
    model = GPRegressor(num_samples=0, noise="constant", random_state=0).fit(x, y)
    assert model.fit_result_.method == "nearest-neighbour"
    assert model.kernel_selection_.rows == 75

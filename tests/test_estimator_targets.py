"""GPRegressor on several targets of which not every row has all."""

import numpy as np
import pytest
import torch

from sggp.errors import InputError
from sggp.estimator import GPRegressor
from sggp.fitting.measured import fit_measured


def _model(**settings):
    return GPRegressor(num_samples=4, num_features=64, random_state=0, **settings)


def _data(n=90):
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 3, (n, 2))
    return X, 4 + 3 * np.sin(2 * X[:, 0]) + X[:, 1] + 0.3 * rng.standard_normal(n)


@pytest.mark.parametrize("missing", [0.2, 0.7])
@pytest.mark.parametrize("normalize_y", [True, False])
def test_targets_with_missing_data(missing, normalize_y):
    """Each as a fit of its own rows at the same hyperparameters; learnt from complete rows, or from one target."""
    X, y = _data()
    Y = np.stack([y, 100 - 5 * y + X[:, 0]], axis=1)
    rng = np.random.default_rng(2)
    Y[rng.random(90) < missing, 1] = np.nan
    model = _model(normalize_y=normalize_y).fit(X, Y)
    mean, std = model.predict(X, return_std=True)
    learnt = ~np.isnan(Y).any(axis=1) if missing < 0.5 else np.ones(90, dtype=bool)
    assert model.trace_[-1]["rows"] == learnt.sum()
    for j in range(2):
        rows = ~np.isnan(Y[:, j])
        scale, offset = float(model.scaling_.y_scale[j]), float(model.scaling_.y_offset[j])
        inputs = (X - model.x_offset_) / model.x_scale_
        centre = np.atleast_1d(np.asarray(model.fit_result_.mean))[j]
        if not normalize_y:
            centre = (centre - offset) / scale
        kernel = model.posterior_[j].kernel
        single = _model(
            kernel=kernel, optimizer=None, normalize_y=False, noise_variance=_noise(model, normalize_y)
        )
        single.fit(inputs[rows], (Y[rows, j] - offset) / scale - centre)
        one, spread = single.predict(inputs, return_std=True)
        np.testing.assert_allclose(mean[:, j], (one + centre) * scale + offset, rtol=1e-6)
        np.testing.assert_allclose(std[:, j], spread * scale, rtol=1e-5)
    assert np.isnan(model.y_train_).sum() == np.isnan(Y).sum()


def _noise(model, normalize_y):
    noise = model.fit_result_.noise_variance
    return noise if normalize_y else noise / float(model.scaling_.y_scale[0]) ** 2


def test_a_row_without_any_target_is_refused():
    X, y = _data()
    Y = np.stack([y, y], axis=1)
    Y[[4, 8]] = np.nan
    with pytest.raises(InputError, match=r"NaN for every target in 2 rows \(4, 8\)"):
        _model().fit(X, Y)
    with pytest.raises(InputError, match=r"NaN in every row of target 1"):
        _model().fit(X, np.stack([y, np.full(90, np.nan)], axis=1))
    with pytest.raises(ValueError, match="NaN"):
        _model().fit(X, np.where(np.arange(90) == 3, np.nan, y))


def test_noise_per_row_goes_with_its_rows():
    X, y = _data(40)
    noise = np.linspace(0.01, 2.0, 40)
    Y = np.stack([y, y], axis=1)
    Y[::4, 1] = np.nan
    model = _model(noise_variance=noise).fit(X, Y)
    found = model.posterior_[1].data.noise_variance.numpy() * float(model.scaling_.y_scale[1]) ** 2
    np.testing.assert_allclose(np.sort(found), np.sort(np.delete(noise, np.arange(0, 40, 4))))


def test_fit_measured_of_complete_targets_is_fit_model(monkeypatch):
    called = []
    monkeypatch.setattr("sggp.fitting.measured.fit_model", lambda *a: called.append(a))
    x, y = torch.rand(5, 2), torch.rand(5, 2)
    fit_measured(x, y, None, 0)
    assert called == [(x, y, None, 0)]

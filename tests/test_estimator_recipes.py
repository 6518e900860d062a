"""GPRegressor and the ways of learning its hyperparameters, each by its name."""

import numpy as np
import pytest

from sggp.estimator import GPRegressor


def _data(n):
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 3, (n, 2))
    return X, 4.0 + 3.0 * (np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.standard_normal(n))


def test_every_recipe_by_its_name():
    X, y = _data(60)
    exact = GPRegressor(optimizer="exact", num_samples=4).fit(X, y)
    for name in ("subset", "iterative"):  # nearest-neighbour: test_estimator_tables.py
        model = GPRegressor(optimizer=name, random_state=0, num_samples=16, num_features=256).fit(X, y)
        assert model.fit_result_.method == name
        assert model.score(X, y) == pytest.approx(exact.score(X, y), abs=0.02)


@pytest.mark.slow  # of `fit_iterative` itself tests/hyperparameters/test_iterative.py tells
def test_the_solves_of_an_iterative_fit_are_its_posterior(monkeypatch):
    X, y = _data(60)

    def fail(*_args, **_kwargs):
        raise RuntimeError("conditioned anew")

    monkeypatch.setattr("sggp.fitting.model.condition", fail)
    model = GPRegressor(optimizer="iterative", random_state=0, num_samples=16, num_features=256).fit(X, y)
    assert model.posterior_ is model.fit_result_.posterior
    assert model.posterior_.num_samples == 16
    assert model.sample_y(X, 3).shape == (60, 3)
    with pytest.raises(RuntimeError, match="anew"):  # several targets share hyperparameters, not solves
        GPRegressor(optimizer="iterative", random_state=0, num_samples=4).fit(X, np.stack([y, -y], axis=1))

"""`max_seconds` and `checkpoint` of `GPRegressor`: what is cut short and said, and what goes on after a kill."""

from __future__ import annotations

import signal
from contextlib import nullcontext

import numpy as np
import pytest

from sggp import GPRegressor
from sggp.errors import CheckpointError, InputError, NotConverged, Stopped
from sggp.estimator import regressor
from sggp.evidence import timed
from sggp.running import Stop, go_on, stoppable
from sggp.solvers import ConjugateGradients
from sggp.solvers.core import checkpoint as stored
from tests.scripts import Scripts

PROGRAM = """
import os, signal, sys
import numpy as np
from sggp import GPRegressor
from sggp.solvers import ConjugateGradients
from sggp.solvers.core import checkpoint, driver

X, y = np.load(sys.argv[1]), np.load(sys.argv[2])
checkpoint._INTERVAL, checkpoint._WORK_PER_WRITE = 0.0, 0.0
original, count = driver.describe_step, [0]

def step(*given):
    count[0] += 1
    if count[0] == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    original(*given)

driver.describe_step = step
GPRegressor("matern32", solver=ConjugateGradients(None), num_samples=4, num_features=64).fit(
    X, y, checkpoint=sys.argv[3]
)
"""


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    X = rng.random((150, 2))
    return X, np.sin(5 * X[:, 0]) * X[:, 1] + 0.05 * rng.standard_normal(150)


def model(**more):
    options = {"solver": ConjugateGradients(None), "num_samples": 4, "num_features": 64}
    return GPRegressor("matern32", **options | more)


def learnt_again(*_):
    pytest.fail("hyperparameters were learnt again")


def test_a_killed_fit_goes_on_without_learning_again(table, tmp_path, monkeypatch, scripts: Scripts):
    """The seed is nobody's: the samples are those of the killed fit all the same."""
    X, y = table
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    file = tmp_path / "fit"
    names = [str(tmp_path / name) for name in ("X.npy", "y.npy", "fit")]
    ended = scripts.run("-c", PROGRAM, *names)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert file.exists()
    assert (tmp_path / "fit.solve").exists()

    broken = (tmp_path / "fit.solve").read_bytes()
    monkeypatch.setattr(regressor, "fit_weighted", learnt_again)
    resumed = model().fit(X, y, checkpoint=file)
    assert any("resumed" in note for note in resumed.solution_.notes)
    # and as if there had been no kill: the solve from its beginning, with what was learnt
    (tmp_path / "fit.solve").unlink()
    whole = model().fit(X, y, checkpoint=file)
    assert not any("resumed" in note for note in whole.solution_.notes)
    np.testing.assert_array_equal(resumed.predict(X[:9]), whole.predict(X[:9]))
    np.testing.assert_array_equal(resumed.sample_y(X[:9], 4), whole.sample_y(X[:9], 4))
    assert broken != (tmp_path / "fit.solve").read_bytes()


def test_a_checkpoint_changes_nothing_and_answers_the_same_call(table, tmp_path, monkeypatch):
    X, y = table
    targets = np.column_stack([y, 2 - y**2])
    plain = model(random_state=3).fit(X, targets)
    kept = model(random_state=3).fit(X, targets, checkpoint=tmp_path / "fit")
    assert {path.name for path in tmp_path.iterdir()} == {"fit", "fit.solve0", "fit.solve1"}
    monkeypatch.setattr(regressor, "fit_weighted", learnt_again)
    again = model(random_state=3).fit(X, targets, checkpoint=tmp_path / "fit")
    for other in (kept, again):
        for one, two in zip(
            plain.predict(X[:9], return_std=True), other.predict(X[:9], return_std=True), strict=True
        ):
            np.testing.assert_array_equal(one, two)
        assert other.theta_ == pytest.approx(plain.theta_, abs=0)
        assert other.noise_model_.reason == plain.noise_model_.reason


@pytest.mark.parametrize("solver", [None, ConjugateGradients(None)])
def test_what_a_stop_left_unlearnt_is_learnt_by_the_next_call(solver, table, tmp_path, monkeypatch):
    X, y = table
    y = y + np.random.default_rng(1).standard_normal(150) * (X[:, 1] > 0.5)  # noise that varies
    whole = model(random_state=3, solver=solver).fit(X, y)
    assert whole.noise_model_.surface is not None
    learn = timed.learn_noise_model
    with stoppable(Stop()) as stop:

        def stopped(*arguments):
            stop.ask("SIGTERM")
            go_on()
            return learn(*arguments)

        monkeypatch.setattr(timed, "learn_noise_model", stopped)
        cut = model(random_state=3, solver=solver)
        expected = "ConjugateGradients" if solver else "stopped by SIGTERM: learning"
        with pytest.warns(NotConverged, match=expected), pytest.raises(Stopped) if solver else nullcontext():
            cut.fit(X, y, checkpoint=tmp_path / "fit")
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(timed, "learn_noise_model", learn)
    if solver is None:  # a factor is one step, so that there is a model
        assert (cut.cut_short_, cut.converged_) == (("learning",), False)
    resumed = model(random_state=3, solver=solver).fit(X, y, checkpoint=tmp_path / "fit")
    np.testing.assert_array_equal(
        resumed.predict(X[:9], return_std=True), whole.predict(X[:9], return_std=True)
    )


def test_the_same_numbers_are_the_same_call_however_they_lie_in_memory(table, tmp_path, monkeypatch):
    X, y = table
    np.save(tmp_path / "X.npy", X)
    expected = model(random_state=3).fit(X, y, checkpoint=tmp_path / "fit").predict(X[:9])
    monkeypatch.setattr(regressor, "fit_weighted", learnt_again)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for other in (X[::-1].copy()[::-1], np.asfortranarray(X), X.astype(">f8"), mapped):
        again = model(random_state=3).fit(other, y[::-1].copy()[::-1], checkpoint=tmp_path / "fit")
        np.testing.assert_allclose(again.predict(X[:9]), expected, rtol=1e-9)  # columns first: other sums


def test_the_posterior_of_an_iterative_fit_is_kept(table, tmp_path, monkeypatch):
    X, y = table[0][:40], table[1][:40]
    options = {"optimizer": "iterative", "solver": None, "noise": "constant", "random_state": 0}
    first = model(**options).fit(X, y, checkpoint=tmp_path / "fit")
    monkeypatch.setattr(regressor, "fit_weighted", learnt_again)
    again = model(**options).fit(X, y, checkpoint=tmp_path / "fit")
    np.testing.assert_array_equal(first.predict(X), again.predict(X))
    assert not (tmp_path / "fit.solve").exists()


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("X", {"X": 1.0}),
        ("y", {"y": 1.0}),
        ("sample_weight", {"sample_weight": 2.0}),
        ("kernel", {"kernel": "rbf"}),
        ("solver", {"solver": None}),
        ("random_state", {"random_state": 4}),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(what, changed, table, tmp_path):
    X, y = table[0][:30].copy(), table[1][:30].copy()
    options = {"optimizer": None, "noise_variance": 0.01, "random_state": 3}
    model(**options).fit(X, y, checkpoint=tmp_path / "fit")
    content = (tmp_path / "fit").read_bytes()
    X[7, 1] += changed.pop("X", 0.0)
    y[7] += changed.pop("y", 0.0)
    weight = changed.pop("sample_weight", None)
    other = model(**options).set_params(**changed)
    with pytest.raises(CheckpointError, match=f"another fit: .*{what}"):
        other.fit(X, y, sample_weight=weight, checkpoint=tmp_path / "fit")
    assert (tmp_path / "fit").read_bytes() == content


def test_a_damaged_checkpoint_and_one_of_a_solve_are_refused(table, tmp_path):
    X, y = table[0][:30], table[1][:30]
    options = {"optimizer": None, "noise_variance": 0.01, "random_state": 3}
    model(**options).fit(X, y, checkpoint=tmp_path / "fit")
    with pytest.raises(CheckpointError, match="the checkpoint argument of a solve"):
        model(**options).fit(X, y, checkpoint=tmp_path / "fit.solve")
    content = bytearray((tmp_path / "fit").read_bytes())
    content[-3] ^= 1
    (tmp_path / "fit").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        model(**options).fit(X, y, checkpoint=tmp_path / "fit")
    with pytest.raises(CheckpointError, match="cannot be used"):
        model(**options).fit(X, y, checkpoint=tmp_path / "none" / "fit")


@pytest.mark.parametrize("optimizer", ["exact", "nearest-neighbour", "subset", "iterative"])
def test_no_time_keeps_the_best_and_says_so(optimizer, table):
    X, y = table
    with pytest.warns(NotConverged) as told:
        fitted = model(optimizer=optimizer, max_seconds=1e-9, random_state=0).fit(X, y)
    assert fitted.cut_short_ == ("hyperparameters", "outlying rows", "noise model")
    assert not fitted.converged_
    assert any("cut short: hyperparameters, outlying rows, noise model." in str(w.message) for w in told)
    assert "no time" in fitted.noise_model_.reason
    steps = {"exact": 3, "nearest-neighbour": 0, "subset": 3, "iterative": 1}[optimizer]
    assert fitted.fit_result_.steps <= steps
    assert np.isfinite(fitted.predict(X)).all()


def test_no_time_compares_no_kernels(table):
    X, y = table
    with pytest.warns(NotConverged):
        fitted = GPRegressor(optimizer="nearest-neighbour", num_samples=0, max_seconds=1e-9).fit(X, y)
    assert fitted.kernel_selection_ is None
    assert "no time was left to compare kernels" in fitted.fit_result_.message


def test_time_enough_changes_nothing(table):
    X, y = table
    free, limited = (model(random_state=0, max_seconds=s).fit(X, y) for s in (None, 1e6))
    np.testing.assert_array_equal(free.predict(X), limited.predict(X))
    assert limited.converged_
    assert limited.cut_short_ == ()


def test_the_solve_has_what_learning_leaves(table, monkeypatch):
    """Half of the seconds are for learning; what was not used goes to the solve, in like shares to targets."""
    X, y = table
    given = []
    original = regressor.condition_measured

    def seen(fitted, x, targets, generator, limits):
        given.extend(limits(j)["max_seconds"] for j in range(targets.shape[1]))
        return original(fitted, x, targets, generator, limits)

    monkeypatch.setattr(regressor, "condition_measured", seen)
    model(max_seconds=1000.0, optimizer=None, noise_variance=0.01).fit(X, np.column_stack([y, y**2]))
    first, last = given
    assert 450 < first < 500
    assert 900 < last < 1000


def test_a_model_says_what_was_cut_after_loading(table, tmp_path):
    X, y = table[0][:40], table[1][:40]
    with pytest.warns(NotConverged):
        fitted = model(solver=None, max_seconds=1e-9).fit(X, y)
    fitted.save(tmp_path / "m.gp")
    loaded = GPRegressor.load(tmp_path / "m.gp")
    assert loaded.cut_short_ == fitted.cut_short_ == ("hyperparameters",)
    assert loaded.max_seconds == 1e-9
    assert not loaded.converged_


@pytest.mark.parametrize("seconds", [0, -1.0, "soon", float("nan")])
def test_seconds_are_positive(seconds, table):
    with pytest.raises(InputError, match="max_seconds"):
        model(max_seconds=seconds).fit(*table)


def test_a_full_disk_costs_the_checkpoint_alone(table, tmp_path, monkeypatch):
    from sggp.errors import DataFileError, SggpWarning
    from sggp.estimator import long_fit

    def full(*_):
        raise DataFileError("no space is left.")

    monkeypatch.setattr(long_fit, "write_content", full)
    monkeypatch.setattr(stored, "write_content", full)
    with pytest.warns(SggpWarning, match="without a checkpoint"):
        fitted = model(optimizer=None, noise_variance=0.01).fit(*table, checkpoint=tmp_path / "fit")
    assert fitted.converged_

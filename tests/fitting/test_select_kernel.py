"""`select_kernel`: candidates with the scores of rows that their fits have not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from sggp import select_kernel
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.evidence.judging import held_out
from sggp.fitting.selection import ROUGHEST_FIRST
from sggp.hyperparameters import named_kernel


def wave(n=240, noise=0.05):
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (n, 2)) * [1.0, 50.0]
    return x, 30 + 8 * (np.sin(9 * x[:, 0]) * np.cos(x[:, 1] / 12) + noise * rng.standard_normal(n))


def walk(n=240):
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.standard_normal(n))
    order = rng.permutation(n)
    return order[:, None] / n, path[order]


def test_smooth_and_rough_functions_get_smooth_and_rough_kernels():
    smooth, rough = select_kernel(*wave(300, 0.0), random_state=0), select_kernel(*walk(), random_state=0)
    assert smooth.chosen in ("matern52", "rbf")
    assert rough.chosen == "matern12"
    for selection, n in ((smooth, 300), (rough, 240)):
        assert [score.name for score in selection.scores] == list(ROUGHEST_FIRST)
        assert selection.rows == n // 4
        assert selection.chosen in selection.reason
        for score in selection.scores:
            behind, error = score.crps_behind
            assert behind >= 0
            assert error >= 0
        assert "behind" in str(selection)


def test_errors_are_those_of_scikit_learn_on_the_same_rows(monkeypatch):
    x, y = wave()
    judged, rest = held_out(len(x), torch.Generator().manual_seed(0))
    monkeypatch.setattr("sggp.fitting.selection.held_out", lambda rows, generator: (judged, rest))
    selection = select_kernel(x, y, ("matern32", "matern52"), random_state=0)
    unit = x.std(axis=0)
    for score, nu in zip(selection.scores, (1.5, 2.5), strict=True):
        kernel = ConstantKernel(2.0) * Matern([1.0, 1.0], nu=nu) + WhiteKernel(0.01)
        other = GaussianProcessRegressor(kernel, normalize_y=True).fit(x[rest] / unit, y[rest])
        mean, std = other.predict(x[judged] / unit, return_std=True)
        rows, density, _, rmse = score.by_density[0]
        assert rows == len(rest)
        assert rmse * y.std() == pytest.approx(np.sqrt(np.mean((mean - y[judged]) ** 2)), rel=0.05)
        theirs = -0.5 * (np.log(2 * np.pi * std**2) + ((y[judged] - mean) / std) ** 2)
        assert density - np.log(y.std()) == pytest.approx(theirs.mean(), abs=0.1)


def test_it_depends_on_the_seed_alone_and_not_on_units():
    x, y = wave(120)
    first = select_kernel(x, y, random_state=3)
    for again in (
        select_kernel(torch.from_numpy(x), torch.from_numpy(y), random_state=np.random.RandomState(3)),
        select_kernel(x * [4.0, 0.25], y * 2.0**30, random_state=3),
    ):
        assert again.chosen == first.chosen
        for ours, theirs in zip(again.scores, first.scores, strict=True):
            assert ours.log_density == pytest.approx(theirs.log_density, abs=1e-6)
            assert ours.crps == pytest.approx(theirs.crps, rel=1e-6)
    assert select_kernel(x, y, random_state=4).scores != first.scores


def test_kernels_of_your_own_are_compared_and_not_changed():
    x, y = wave(120)
    mine = {
        "one scale": ScaleKernel(RBFKernel()).double(),
        "no scale": MaternKernel(nu=1.5, ard_num_dims=2).double(),
        "as named": named_kernel("matern52", 2),
    }
    before = {name: [p.clone() for p in kernel.parameters()] for name, kernel in mine.items()}
    selection = select_kernel(x, y, mine, random_state=0)
    assert [score.name for score in selection.scores] == list(mine)
    assert selection.chosen in mine
    for name, kernel in mine.items():
        assert all(torch.equal(a, b) for a, b in zip(before[name], kernel.parameters(), strict=True))
    named = select_kernel(x, y, ["matern52"], random_state=0)
    assert named.scores[0].log_density == pytest.approx(selection.scores[2].log_density, abs=1e-9)


@pytest.mark.slow  # test_selection.py selects among fits by that likelihood, too
def test_many_rows_are_learnt_from_by_the_nearest_neighbour_likelihood(monkeypatch):
    monkeypatch.setattr("sggp.hyperparameters.auto.EXACT_ROWS", 150)
    selection = select_kernel(*walk(), ("matern12", "rbf"), random_state=0)
    assert selection.chosen == "matern12"
    wide = {"matern12": named_kernel("matern12", 1, many_rows=True)}  # its priors leave columns more room
    alone = select_kernel(*walk(), wide, random_state=0)
    assert alone.scores[0].log_density == pytest.approx(selection.scores[0].log_density, abs=1e-9)


TABLE = wave(60)
WRONG = {
    "few rows": (InputError, "30", (TABLE[0][:29], TABLE[1][:29])),
    "one column": (ShapeError, r"\(n, d\)", (TABLE[0][:, 0], TABLE[1])),
    "lengths": (ShapeError, "60", (TABLE[0], TABLE[1][:50])),
    "text": (DtypeError, "numbers", (TABLE[0].astype(str), TABLE[1])),
    "gaps": (InputError, "NaN", (np.where(TABLE[0] > 40, np.nan, TABLE[0]), TABLE[1])),
    "equal targets": (InputError, "same number", (TABLE[0], np.full(60, 3.0))),
    "one name": (DtypeError, "candidates", (*TABLE, "rbf")),
    "no candidate": (InputError, "at least one", (*TABLE, ())),
    "a name twice": (InputError, "once", (*TABLE, ("rbf", "rbf"))),
    "an unknown name": (InputError, "matern72", (*TABLE, ("rbf", "matern72"))),
    "fingerprints": (InputError, "tanimoto", (*TABLE, ("tanimoto",))),
    "no kernel": (DtypeError, "'a' is of type float", (*TABLE, {"a": 1.0})),
    "kernels without names": (InputError, "names", (*TABLE, (RBFKernel(), RBFKernel()))),
    "a kernel of other rows": (ShapeError, "3 length scales", (*TABLE, {"a": RBFKernel(ard_num_dims=3)})),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_compared_is_refused(name):
    error, words, arguments = WRONG[name]
    with pytest.raises(error, match=words):
        select_kernel(*arguments, random_state=0)

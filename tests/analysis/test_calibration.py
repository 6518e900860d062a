"""Calibration reports: against draws of known distributions, scipy's densities, and conformal ranks by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats

from sggp.analysis import CalibrationReport
from sggp.errors import InputError, ShapeError
from sggp.predictive import PredictiveDistribution


def drawn(n: int = 2000, df: float = math.inf, seed: int = 0) -> tuple[np.ndarray, PredictiveDistribution]:
    """Values of rows with different centres and scales, and the distribution that they are of."""
    rng = np.random.default_rng(seed)
    distribution = PredictiveDistribution(rng.normal(0, 3, n), rng.uniform(0.5, 2, n), df)
    return distribution.rvs(random_state=rng)[0], distribution


@pytest.mark.parametrize("df", [math.inf, 4.0])
def test_the_true_distribution_is_calibrated(df):
    y, distribution = drawn(df=df)
    report = CalibrationReport.of(y, distribution)
    for check in (*report.intervals, *report.conformal):
        assert abs(check.coverage - check.level) < 4 * check.error
    assert report.pit_pvalue > 1e-4
    assert np.abs(report.histogram() - 0.1).max() < 4 * math.sqrt(0.09 / 2000)
    for check, level in zip(report.intervals, (0.5, 0.8, 0.95), strict=True):
        factor = stats.norm.ppf(0.5 + level / 2) if math.isinf(df) else stats.t(df).ppf(0.5 + level / 2)
        assert check.factor == pytest.approx(factor)
        assert check.width == pytest.approx(2 * factor * distribution.scale.mean())


def test_scores_are_those_of_the_definitions():
    y, distribution = drawn(40)
    report = CalibrationReport.of(y, distribution)
    loc, scale = distribution.loc, distribution.scale
    density = -stats.norm(loc, scale).logpdf(y)
    assert report.nll == pytest.approx(density.mean())
    assert report.nll_error == pytest.approx(stats.sem(density))
    crps = []
    for value, normal in zip(y, map(stats.norm, loc, scale), strict=True):
        below = integrate.quad(lambda v, normal=normal: normal.cdf(v) ** 2, -np.inf, value)[0]
        crps.append(below + integrate.quad(lambda v, normal=normal: normal.sf(v) ** 2, value, np.inf)[0])
    assert report.crps == pytest.approx(np.mean(crps), rel=1e-5)
    assert report.crps_error == pytest.approx(stats.sem(crps), rel=1e-5)
    assert report.rmse == pytest.approx(math.sqrt(np.mean((y - loc) ** 2)))
    assert report.r2 == pytest.approx(1 - np.mean((y - loc) ** 2) / y.var())


def test_a_model_too_sure_of_itself_is_found_out_and_conformal_intervals_mend_it():
    y, distribution = drawn()
    sure = PredictiveDistribution(distribution.loc, distribution.scale / 2)
    report = CalibrationReport.of(y, sure)
    for check in report.intervals:
        expected = 2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.5 + check.level / 2)) - 1
        assert abs(check.coverage - expected) < 4 * check.error
    assert report.pit_pvalue < 1e-10
    assert report.histogram()[[0, -1]].min() > 0.15
    for check in report.conformal:
        assert abs(check.coverage - check.level) < 4 * check.error
        assert check.factor == pytest.approx(2 * stats.norm.ppf(0.5 + check.level / 2), rel=0.15)


def test_conformal_intervals_are_the_ranks_of_half_the_scores():
    """Of 39 scores of the calibrating half, 95 % need rank ⌈40 · 0.95⌉ = 38; of 18, rank 19, which there is not."""
    y, distribution = drawn(78)
    report = CalibrationReport.of(y, distribution, seed=3)
    order = np.random.default_rng(3).permutation(78)
    scores = np.abs(y - distribution.loc) / distribution.scale
    assert report.conformal[2].factor == np.sort(scores[order[:39]])[37]
    assert report.conformal[2].coverage == np.mean(scores[order[39:]] <= report.conformal[2].factor)
    few = CalibrationReport.of(y[:36], distribution[:36])
    assert math.isinf(few.conformal[2].width)
    assert few.conformal[2].coverage == 1.0
    assert "inf" in str(few)


def test_the_error_of_a_conformal_coverage_counts_both_halves():
    found = [CalibrationReport.of(*drawn(100, seed=seed)).conformal[1] for seed in range(200)]
    spread = np.std([check.coverage for check in found])
    assert spread == pytest.approx(found[0].error, rel=0.2)


def test_reports_are_printed_stored_and_drawn():
    report = CalibrationReport.of(*drawn(200), note="held-out rows")
    said = str(report)
    assert said.startswith("200 rows, held-out rows\n")
    for word in ("RMSE", "NLL", "CRPS", "PIT", "50%", "80%", "95%"):
        assert word in said
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["rmse"] == report.rmse
    assert stored["intervals"][2]["coverage"] == report.intervals[2].coverage
    assert sum(stored["pit_histogram"]) == pytest.approx(1)
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    left, right = report.plot()
    assert [bar.get_height() for bar in left.patches[-10:]] == pytest.approx(report.histogram().tolist())
    observed = right.get_lines()[1]
    central = np.abs(2 * report.pit - 1)
    assert observed.get_ydata().tolist() == [np.mean(central <= level) for level in observed.get_xdata()]


def test_refused():
    with pytest.raises(ShapeError, match="two values or more"):
        CalibrationReport.of([0.0], PredictiveDistribution([0.0], [1.0]))
    with pytest.raises(ShapeError, match="two values or more"):
        CalibrationReport.of([0.0, 1.0, 2.0], PredictiveDistribution([0.0, 1.0], [1.0, 1.0]))
    with pytest.raises(InputError, match="nan"):
        CalibrationReport.of([0.0, np.nan], PredictiveDistribution([0.0, 1.0], [1.0, 1.0]))

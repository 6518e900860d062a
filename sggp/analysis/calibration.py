"""How well predictive distributions agree with what was measured, with split-conformal intervals beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from sggp.analysis.values import differ, numbers
from sggp.errors import DtypeError, ShapeError
from sggp.plotting import new_figure, plot_coverage, plot_pit
from sggp.predictive import PredictiveDistribution

LEVELS = (0.5, 0.8, 0.95)
_ROUNDING = 1e-9  # of (m + 1) times a level, which may be a whole number


@dataclass(frozen=True)
class IntervalCheck:
    """The intervals of one level, loc ± factor · scale, against measured values.

    Attributes:
        level: the share of rows that they should hold.
        coverage: the share that they hold; error: the standard error of that share were the level right.
        width: their mean width, in units of y. factor: half a width in predictive scales.
    """

    level: float
    coverage: float
    error: float
    width: float
    factor: float


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """Scores of predictive distributions on rows that the model has not seen.

    Attributes:
        n: rows. rmse: root mean squared error of the centres, in units of y; r2: 1 − its square over the variance of y.
        nll: mean negative log density, which depends on the unit of y; nll_error: its standard error.
        crps: mean continuous ranked probability score, in units of y, with its standard error crps_error.
        pit: (n,) probability integral transforms F(y): uniform where the distributions are right, piled up in the
            middle where they are too wide, at the ends where they are too narrow.
        pit_pvalue: of the Kolmogorov–Smirnov test that they are uniform, as if rows were independent.
        intervals: the central intervals at 50, 80 and 95 %.
        conformal: split-conformal intervals of the same shape: loc ± q · scale, where the scores |y − loc|/scale of a
            random half of the rows give q, and the other half judges. They hold their level for any model whose rows
            are exchangeable; narrower or wider than `intervals`, they say what the model's own scale lacks. Infinitely
            wide where the half is too small for the level (19 rows for 95 %).
        note: how the rows were predicted.

    Example:
        >>> import numpy as np
        >>> from sggp.analysis import CalibrationReport
        >>> from sggp.predictive import PredictiveDistribution
        >>> y = np.random.default_rng(0).normal(size=400)
        >>> report = CalibrationReport.of(y, PredictiveDistribution(np.zeros(400), np.full(400, 0.5)))
        >>> [round(check.coverage, 2) for check in report.intervals]  # half the true scale: too narrow
        [0.24, 0.47, 0.67]
    """

    n: int
    rmse: float
    r2: float
    nll: float
    nll_error: float
    crps: float
    crps_error: float
    pit: Any = field(repr=False)
    pit_pvalue: float
    intervals: tuple[IntervalCheck, ...]
    conformal: tuple[IntervalCheck, ...]
    note: str = ""

    @classmethod
    def of(
        cls, y: Any, distribution: PredictiveDistribution, *, seed: int = 0, note: str = ""
    ) -> CalibrationReport:
        """Judge distributions by measured values.

        Args:
            y: (n,) measured values, n ≥ 2. distribution: of n measurements, noise included, each predicted from other
                rows.
            seed: of the halves of the conformal intervals. One split only: halves that judge each other in turn have
                errors that cancel, so that their mean coverage would be the level for every model.
            note: how the rows were predicted.

        Raises:
            ShapeError: not one value for each distribution, or fewer than two. InputError: a value is not finite.
            DtypeError: no predictive distribution.

        Source: Gneiting, Balabdaoui & Raftery 2007 for PIT and scores; Lei et al. 2018 for the conformal intervals.
        """
        if not isinstance(distribution, PredictiveDistribution):
            raise DtypeError(
                f"distribution must be a PredictiveDistribution(means, scales), got {type(distribution).__name__}."
            )
        y = numbers(y, "y")
        if y.shape != distribution.loc.shape or y.ndim != 1 or len(y) < 2:
            raise ShapeError(
                f"expected two values or more and a distribution of each, got {y.shape} values and "
                f"{distribution.loc.shape} distributions."
            )
        nll, nll_error = _mean(-distribution.logpdf(y))
        crps, crps_error = _mean(distribution.crps(y))
        pit = distribution.cdf(y)
        mse = float(np.mean((y - distribution.loc) ** 2))
        return cls(
            n=len(y),
            rmse=math.sqrt(mse),
            r2=1 - mse / float(np.var(y)) if differ(y) else math.nan,
            nll=nll,
            nll_error=nll_error,
            crps=crps,
            crps_error=crps_error,
            pit=pit,
            pit_pvalue=float(stats.kstest(pit, "uniform").pvalue),
            intervals=tuple(_central(distribution, y, level) for level in LEVELS),
            conformal=tuple(_split_conformal(distribution, y, level, seed) for level in LEVELS),
            note=note,
        )

    def histogram(self, bins: int = 10) -> np.ndarray:
        """(bins,) shares of rows whose PIT falls in each of equal bins; 1/bins each where all is right."""
        return np.histogram(self.pit, bins=bins, range=(0, 1))[0] / self.n

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists, for JSON."""
        plain = (int, float, str)
        out: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, plain)}
        for name in ("intervals", "conformal"):
            out[name] = [dict(vars(check)) for check in getattr(self, name)]
        return out | {"pit": self.pit.tolist(), "pit_histogram": self.histogram().tolist()}

    def plot(self, axes: Any = None) -> np.ndarray:
        """The PIT histogram and the coverage of every level, in two axes, which are returned.

        Args:
            axes: two axes to draw into; None makes a figure.
        """
        left, right = new_figure(8.0, 3.6).subplots(1, 2) if axes is None else axes
        return np.asarray([plot_pit(self.pit, axes=left), plot_coverage(self.pit, axes=right)])

    def __str__(self) -> str:
        head = [f"{self.n} rows", self.note] if self.note else [f"{self.n} rows"]
        lines = [
            ", ".join(head),
            f"RMSE {self.rmse:.4g}, R² {self.r2:.3f}",
            f"NLL {self.nll:.4g} ± {self.nll_error:.2g}, CRPS {self.crps:.4g} ± {self.crps_error:.2g}, "
            f"PIT uniform: p = {self.pit_pvalue:.2g}",
            f"{'level':>5} {'coverage':>14} {'mean width':>11} {'conformal':>14} {'mean width':>11}",
        ]
        for ours, other in zip(self.intervals, self.conformal, strict=True):
            cells = [f"{_share(check):>14} {check.width:>11.4g}" for check in (ours, other)]
            lines.append(f"{100 * ours.level:>4.0f}% {cells[0]} {cells[1]}")
        return "\n".join(lines)


def conformal_factor(scores: np.ndarray, level: float) -> float:
    """The ⌈(m + 1) level⌉-th smallest of m scores |y − loc|/scale, which one more is below with at least this
    probability where all are exchangeable; infinite where m is too small for the level.

    Source: Lei et al. 2018, algorithm 2.
    """
    rank = math.ceil((len(scores) + 1) * level - _ROUNDING)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


def _mean(values: np.ndarray) -> tuple[float, float]:
    """A mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _central(distribution: PredictiveDistribution, y: np.ndarray, level: float) -> IntervalCheck:
    low, high = distribution.interval(level)
    return IntervalCheck(
        level=level,
        coverage=float(np.mean((low <= y) & (y <= high))),
        error=math.sqrt(level * (1 - level) / len(y)),
        width=float(np.mean(high - low)),
        factor=float(np.mean((high - low) / (2 * distribution.scale))),
    )


def _split_conformal(
    distribution: PredictiveDistribution, y: np.ndarray, level: float, seed: int
) -> IntervalCheck:
    """Intervals from a random half of the rows, judged by the other; the error counts the chance in both."""
    order = np.random.default_rng(seed).permutation(len(y))
    half = len(y) // 2
    scores = np.abs(distribution.z(y))
    factor = conformal_factor(scores[order[:half]], level)
    judged = order[half:]
    return IntervalCheck(
        level=level,
        coverage=float(np.mean(scores[judged] <= factor)),
        error=math.sqrt(level * (1 - level) * (1 / half + 1 / len(judged))),
        width=float(np.mean(2 * factor * distribution.scale)),
        factor=factor,
    )


def _share(check: IntervalCheck) -> str:
    return f"{100 * check.coverage:.1f} ± {100 * check.error:.1f} %"

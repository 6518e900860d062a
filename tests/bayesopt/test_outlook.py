"""Is it worth going on? Against dense draws of small pools whose posterior is known exactly, and in every corner."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import gpytorch
import pytest
import torch
from torch import Tensor

from sggp.bayesopt import Box, Pool, Surrogate, fit_surrogate
from sggp.bayesopt.outlook import Figure, Found, Outlook, Within, outlook
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.posterior import condition
from tests.bayesopt.paths import Table

SAMPLES = 4000
NOISE = 0.6
POOL = torch.linspace(-2.0, 2.0, 14, dtype=torch.float64)[:, None]
ROWS = [1, 4, 5, 9]
VALUES = torch.tensor([0.2, -0.4, 0.1, 0.9], dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kernel() -> gpytorch.kernels.Kernel:
    made = gpytorch.kernels.RBFKernel()
    made.lengthscale = 0.8
    return made.double()


@pytest.fixture(scope="module")
def model() -> Surrogate:
    """An exact posterior with a known kernel; as it has learnt nothing, its paths are not corrected."""
    posterior = condition(
        kernel(),
        POOL[ROWS],
        VALUES,
        noise_variance=NOISE**2,
        num_samples=SAMPLES,
        num_features=512,
        generator=0,
    )
    return Surrogate(posterior, 0.0, 1.0, False)


def exact(own: float, error: float) -> Tensor:
    """(draws, 14) true values f + own part, given measurements of them with an error, by dense Gaussians."""
    gram = torch.exp(-0.5 * ((POOL - POOL.T) / 0.8) ** 2) + own**2 * torch.eye(14, dtype=torch.float64)
    inverse = torch.linalg.inv(gram[ROWS][:, ROWS] + error**2 * torch.eye(4, dtype=torch.float64))
    mean = gram[:, ROWS] @ inverse @ VALUES
    covariance = gram - gram[:, ROWS] @ inverse @ gram[ROWS]
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0.0).sqrt()
    return mean + torch.randn(100_000, 14, generator=seeded(1), dtype=torch.float64) @ root.T


@pytest.mark.parametrize(("own", "error"), [(NOISE, 0.0), (0.0, NOISE), (0.36, 0.48)])
def test_a_small_pool_agrees_with_dense_draws(model: Surrogate, own: float, error: float) -> None:
    said = outlook(
        model,
        Pool(POOL),
        ROWS,
        VALUES,
        maximize=True,
        top=(0.3, 1),
        epsilon=(0.0, 0.4),
        batch=[10, 3],
        noise_std=error,
        generator=2,
    )
    draws = exact(own, error)
    best = draws[:, 9]  # the measured row with the largest expected value
    assert said.best_at == 9
    assert said.best == pytest.approx(float(best.mean()), abs=0.03)
    regret = draws.max(1).values - best
    for one, epsilon in zip(said.within, (0.0, 0.4), strict=True):
        assert one.epsilon == epsilon
        agrees(one.probability, float((regret <= epsilon).double().mean()))
    agrees(said.regret_median, float(regret.quantile(0.5)), at_least=0.02)
    agrees(said.regret_90, float(regret.quantile(0.9)), at_least=0.02)
    assert said.gain is not None
    assert said.gain_probability is not None
    gain = (draws[:, [10, 3]].max(1).values - best).clamp_min(0.0)
    agrees(said.gain, float(gain.mean()))
    agrees(said.gain_probability, float((gain > 0).double().mean()))
    order = draws.argsort(1, descending=True)
    for found, count in zip(said.found, (5, 1), strict=True):
        number = torch.isin(order[:, :count], torch.tensor(ROWS)).sum(1).double()
        assert found.count == count
        agrees(found.expected, float(number.mean()))
        true_inside = float(((number >= found.low) & (number <= found.high)).double().mean())
        assert found.inside == pytest.approx(true_inside, abs=0.03)
        assert found.inside >= 0.85


def agrees(figure: Figure, truth: float, at_least: float = 0.0) -> None:
    """Within four Monte Carlo errors, and the error is not idle."""
    assert 0 <= figure.error < 0.05
    assert figure.value == pytest.approx(truth, abs=max(4 * figure.error, at_least) + 0.005)


def test_blocks_of_any_size_give_the_same() -> None:
    x = torch.randn(700, 3, generator=seeded(3), dtype=torch.float64)
    y = x.sum(1) + 0.1 * torch.randn(700, generator=seeded(4), dtype=torch.float64)
    fitted = fit_surrogate(x[:30], y[:30], num_samples=19, generator=0)
    told = [
        outlook(
            fitted, Pool(x, chunk_size=size), range(30), y[:30], maximize=True, batch=[40, 600], generator=5
        )
        for size in (7, 300, 8192)
    ]
    assert told[0].judged == 30
    assert any(told[0].correction)
    for other in told[1:]:
        same(told[0].as_dict(), other.as_dict())


def same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same(one[name], other[name])
    elif isinstance(one, list | tuple):
        for first, second in zip(one, other, strict=True):
            same(first, second)
    else:
        assert one == (pytest.approx(other, rel=1e-6, abs=1e-9) if isinstance(one, float) else other)


@dataclass(frozen=True)
class Fake:
    """A posterior that is nothing but its paths."""

    samples: Table

    @property
    def num_samples(self) -> int:
        return self.samples.num_samples


def tabled(values: Tensor, own_std: float = 0.0) -> Surrogate:
    return Surrogate(Fake(Table(values, [])), 0.0, 1.0, False, new_noise=own_std**2)  # type: ignore[arg-type]


def rows_of(values: Tensor) -> Pool:
    return Pool(torch.arange(values.shape[1])[:, None])


def test_the_other_direction_is_the_mirror_image() -> None:
    values = torch.randn(64, 40, generator=seeded(6), dtype=torch.float64)
    truth = torch.randn(40, generator=seeded(7), dtype=torch.float64)
    known = list(range(12))
    up, down = (
        outlook(
            tabled(sign * values, 0.2),
            rows_of(values),
            known,
            sign * truth[:12],
            maximize=sign > 0,
            batch=[20, 30],
            generator=8,
        )
        for sign in (1.0, -1.0)
    )
    assert up.best == -down.best
    assert up.best == float(truth[:12].max())
    ours, theirs = up.as_dict(), down.as_dict()
    for name in ("maximize", "best", "sentences"):
        del ours[name], theirs[name]
    assert ours == theirs
    assert 0 < up.found[0].expected.value < 1


def test_everything_measured() -> None:
    values = torch.randn(32, 5, generator=seeded(9), dtype=torch.float64)
    said = outlook(
        tabled(values, 0.5), rows_of(values), range(5), [0.3, 0.1, 0.3, 0.2, 0.3], maximize=True, top=(2, 0.2)
    )
    assert [one.probability.value for one in said.within] == [1.0, 1.0]
    assert (said.regret_median.value, said.regret_90.value) == (0.0, 0.0)
    assert said.gain is None
    assert [(one.count, one.expected.value, one.low, one.high) for one in said.found] == [
        (2, 2, 2, 2),
        (1, 1, 1, 1),
    ]
    assert said.sentences()[:2] == [
        "Everything in the pool has been measured: the best found is the best of the pool.",
        "Nothing better is left.",
    ]


def test_equal_values_share_the_last_places() -> None:
    # the paths know that rows 3 and 4 equal the best two of those measured
    values = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]], dtype=torch.float64).expand(16, -1)
    said = outlook(tabled(values), rows_of(values), [0, 1, 2], [2.0, 2.0, 1.0], maximize=True, top=(1, 3, 5))
    assert [one.expected.value for one in said.found] == pytest.approx([0.5, 1.5, 3.0])
    assert said.within[0].probability.value == 1.0  # nothing is strictly better
    table, told = torch.zeros(16, 14), [2.0625] * 12 + [1.0]
    all_known = outlook(tabled(table), rows_of(table), range(13), told, maximize=True, top=11)
    assert (all_known.found[0].low, all_known.found[0].high) == (11.0, 11.0)  # eleven twelfths, twelve times
    assert "candidate found (2.0625) is" in all_known.sentences()[0]


def test_paths_lie_on_the_scale_of_the_values() -> None:
    values = torch.zeros(2000, 30, dtype=torch.float64)
    truth = torch.linspace(-1.1, 1.2, 24, dtype=torch.float64).round(decimals=1)
    said = outlook(tabled(values, 0.62), rows_of(values), range(24), truth, maximize=True, generator=3)
    assert said.step == 0.1
    # better than 1.2 is 1.3 or more, that is above 1.25
    missed = 1 - (0.5 + 0.5 * math.erf(1.25 / 0.62 / 2**0.5)) ** 6
    assert said.within[0].probability.value == pytest.approx(1 - missed, abs=0.02)
    finer = outlook(tabled(values, 0.62), rows_of(values), range(24), truth * 1.0371234, maximize=True)
    assert finer.step == 0.0


def test_repeats_tell_the_noise() -> None:
    values = torch.zeros(64, 6, dtype=torch.float64)
    said = outlook(tabled(values, 0.5), rows_of(values), [0, 1, 0, 1], [1.0, 0.0, 1.2, 0.4], maximize=True)
    assert said.noise_std == pytest.approx((0.5 * (0.02 + 0.08)) ** 0.5)
    assert said.measured == 2
    assert said.step == 0.0
    assert 0.5 < said.best < 1.1  # drawn to the path, at zero
    assert "scatter" in said.sentences()[-2]


def test_values_that_do_not_differ() -> None:
    x = torch.randn(40, 2, generator=seeded(1), dtype=torch.float64)
    y = torch.full((8,), 3.0, dtype=torch.float64)
    said = outlook(fit_surrogate(x[:8], y, num_samples=16, generator=0), Pool(x), range(8), y, maximize=True)
    assert not said.learned
    assert said.best == 3.0
    assert [one.epsilon for one in said.within] == [0.0]
    assert "guesses" in said.sentences()[-1]


def test_molecules_outside_the_pool_are_passed_over() -> None:
    values = torch.randn(32, 8, generator=seeded(9), dtype=torch.float64)
    inside = outlook(
        tabled(values), rows_of(values), [2, 5], [0.3, 0.1], maximize=True, epsilon=0.0, generator=1
    )
    beside = outlook(
        tabled(values), rows_of(values), [2, -1, 5], [0.3, 9.0, 0.1], maximize=True, epsilon=0.0, generator=1
    )
    assert beside == inside


@pytest.mark.parametrize(
    ("measured", "values", "options", "error", "words"),
    [
        ([], [], {}, InputError, "nothing has been measured"),
        ([-1], [1.0], {}, InputError, "nothing of the pool"),
        ([-2], [1.0], {}, InputError, "row -2"),
        ([9], [1.0], {}, InputError, "rows 0..7"),
        ([1, 2], [1.0], {}, ShapeError, "one value per measured row"),
        ([1], [math.nan], {}, InputError, "not finite"),
        ([1], [1.0], {"batch": [1]}, InputError, "batch names"),
        ([1], [1.0], {"batch": [2, 2]}, InputError, "batch names"),
        ([1], [1.0], {"epsilon": -1.0}, InputError, "at least 0"),
        ([1], [1.0], {"top": 0.0}, InputError, "shares between"),
        ([1], [1.0], {"top": 2.5}, InputError, "shares between"),
        ([1], [1.0], {"noise_std": -0.1}, InputError, "negative"),
        ([1], [1.0], {"maximize": "yes"}, (InputError, DtypeError), "maximize"),
    ],
)
def test_refusals(measured: Any, values: Any, options: Any, error: Any, words: str) -> None:
    paths = torch.zeros(16, 8, dtype=torch.float64)
    with pytest.raises(error, match=words):
        outlook(tabled(paths), rows_of(paths), measured, values, **{"maximize": True, **options})


def test_too_few_paths_and_no_model_are_refused() -> None:
    paths = torch.zeros(4, 8, dtype=torch.float64)
    with pytest.raises(InputError, match="num_samples=64"):
        outlook(tabled(paths), rows_of(paths), [1], [1.0], maximize=True)
    with pytest.raises(DtypeError, match="Surrogate"):
        outlook(Fake(Table(paths, [])), rows_of(paths), [1], [1.0], maximize=True)  # type: ignore[arg-type]
    broken = tabled(torch.full((16, 8), math.nan, dtype=torch.float64))
    with pytest.raises(InputError, match="not finite"):
        outlook(broken, rows_of(paths), [1], [1.0], maximize=True)


def test_a_box_agrees_with_a_fine_grid() -> None:
    box = Box([[0.0, 1.0]])
    x = torch.tensor([[0.1], [0.35], [0.5], [0.9]], dtype=torch.float64)
    y = torch.tensor([0.2, 0.9, 0.7, -0.5], dtype=torch.float64)
    smooth = gpytorch.kernels.RBFKernel().double()
    smooth.lengthscale = 0.2
    posterior = condition(smooth, x, y, noise_variance=0.01, num_samples=64, num_features=512, generator=0)
    for sign in (1.0, -1.0):
        fitted = Surrogate(posterior, 10.0, 2.0, True)
        said = outlook(
            fitted, box, x, 10 + 2 * y, maximize=sign > 0, batch=[[0.42], [0.75]], epsilon=(0.0, 0.1)
        )
        grid = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
        paths, known = sign * 2 * posterior.samples(grid), sign * 2 * posterior.samples(x)
        best = int(known.mean(0).argmax())
        regret = (torch.maximum(paths.max(1).values, known.max(1).values) - known[:, best]).double()
        assert (said.kind, said.size, said.found, said.best_at) == ("box", None, (), best)
        assert said.best == pytest.approx(10 + float(sign * known[:, best].mean()), abs=1e-6)
        assert said.regret_90.value == pytest.approx(
            float(regret.quantile(0.9, interpolation="higher")), abs=0.01
        )
        assert said.within[1].probability.value == pytest.approx(
            float((regret <= 0.1).double().mean()), abs=0.04
        )
        batch = sign * 2 * posterior.samples(torch.tensor([[0.42], [0.75]], dtype=torch.float64))
        gain = (batch.max(1).values - known[:, best]).clamp_min(0).mean()
        assert said.gain is not None
        assert said.gain.value == pytest.approx(float(gain), abs=1e-6)
        assert said.search_error is not None
        assert said.search_error < 0.01
        assert "searches" in said.sentences()[-1]


def test_points_of_a_box_are_checked() -> None:
    fitted = fit_surrogate(
        torch.rand(6, 2, generator=seeded(0)).double(), torch.arange(6.0), num_samples=16, generator=0
    )
    with pytest.raises(TypeError, match="tops"):
        outlook(fitted, Box([[0.0, 1.0]] * 2), torch.zeros(6, 2), range(6), maximize=True, tops=3)
    for points, values in (
        (torch.zeros(3), [1.0]),
        (torch.zeros(3, 3), [1.0] * 3),
        (torch.zeros(3, 2), [1.0]),
    ):
        with pytest.raises(ShapeError):
            outlook(fitted, Box([[0.0, 1.0]] * 2), points, values, maximize=True)


SAID = Outlook(
    kind="pool",
    maximize=True,
    size=10_449,
    measured=624,
    best=-9.9,
    best_at=17,
    within=(Within(0.0, Figure(0.31, 0.04)), Within(0.1, Figure(0.52, 0.04))),
    regret_median=Figure(0.2, 0.05),
    regret_90=Figure(0.7, 0.06),
    gain=Figure(0.123, 0.02),
    gain_probability=Figure(0.48, 0.04),
    batch=104,
    found=(
        Found(105, 0.01, Figure(61.3, 0.4), 48.0, 75.0, 0.91),
        Found(1, None, Figure(0.4, 0.1), 0.0, 1.0, 1.0),
    ),
    noise_std=0.0,
    step=0.1,
    paths=128,
    learned=True,
    names=("molecule", "library"),
)


def test_sentences_read_well() -> None:
    assert SAID.sentences() == [
        "The best molecule found (-9.9) is the best of the 10,449 in the library with probability 0.31 (± 0.04), and "
        "within 0.1 of it with probability 0.52 (± 0.04).",
        "The best there is should be better by some 0.2, and by at most 0.7 (90 %).",
        "The next batch (104 molecules) holds something better than the best found with probability 0.48 (± 0.04); its "
        "expected gain is 0.12 (± 0.02).",
        "Of the library's best 1 % (105), about 61 have been found so far (90 %: 48 to 75).",
        "Of the library's one best, about 0.4 have been found so far (90 %: 0 to 1).",
        "The truth here is what a measurement of a molecule gives: measured values count as exact.",
    ]


def test_sentences_stay_short_of_certainty() -> None:
    sure = replace(
        SAID,
        within=(Within(0.0, Figure.probability(torch.ones(128, dtype=torch.bool))),),
        regret_median=Figure(0.0, 0.0),
        regret_90=Figure(0.0, 0.0),
        gain=Figure(0.0, 0.0),
        gain_probability=Figure.probability(torch.zeros(128, dtype=torch.bool)),
    )
    assert sure.sentences()[:3] == [
        "The best molecule found (-9.9) is the best of the 10,449 in the library with probability above 0.98.",
        "Nothing better is left, with a probability of at least 90 %.",
        "The next batch (104 molecules) holds something better than the best found with probability below 0.02.",
    ]
    half = replace(SAID, regret_median=Figure(0.0, 0.0))
    assert (
        half.sentences()[1]
        == "As likely as not nothing better is left; the best left is by at most 0.7 better (90 %)."
    )


def test_the_answer_is_json() -> None:
    told = json.loads(json.dumps(SAID.as_dict()))
    assert told["within"][0]["probability"] == {"value": 0.31, "error": 0.04}
    assert told["found"][0]["low"] == 48.0
    assert told["sentences"] == SAID.sentences()

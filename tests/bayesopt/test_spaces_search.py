"""The best point of every path in a box: against brute force, within constraints, and never a repeat."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sggp.bayesopt import (
    Box,
    BoxSearch,
    Campaign,
    Categorical,
    Continuous,
    Integer,
    LinearConstraint,
    Ordinal,
    ThompsonSampling,
)
from sggp.bayesopt.spaces.region import ENUMERATED
from sggp.bayesopt.spaces.search import Known as KnownPoints
from sggp.bayesopt.trials import Place
from sggp.errors import Exhausted, InputError
from tests.bayesopt.paths import Functions, Known

SPACES = {
    "mixed": Box({"t": (20, 120), "base": ["a", "b", "c"], "n": Integer(1, 50), "g": Ordinal([0.1, 0.5, 2])}),
    "all continuous": Box({"t": (20, 120), "c": Continuous(1e-3, 1, log=True)}),
    "bounds": Box([[-1, 3], [5, 6]]),
    "few": Box({"base": ["a", "b", "c"], "acid": [False, True], "n": Integer(0, 4)}),
    "many": Box({f"c{i}": Integer(0, 9) for i in range(5)} | {"base": ["a", "b", "c"]}),
    "plane": Box({"a": (0, 1), "b": (0, 2)}, constraints=[LinearConstraint({"a": 1, "b": 1}, at_most=0.7)]),
    "mixture": Box(
        {"a": (0, 1), "b": (0, 1), "c": (0, 0.5), "base": ["x", "y"]},
        constraints=[LinearConstraint(["a", "b", "c"], equals=1), LinearConstraint({"a": 1}, at_least=0.2)],
    ),
    "whole": Box(
        {"n": Integer(0, 6), "m": Integer(0, 6), "t": (0, 1)},
        constraints=[LinearConstraint({"n": 1, "m": 1, "t": 2}, at_least=3, at_most=5)],
    ),
    "thin": Box(
        {f"x{i}": (0, 1) for i in range(6)},
        constraints=[LinearConstraint([f"x{i}" for i in range(6)], at_least=5.8, at_most=5.81)],
    ),
}


def distance(points: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    return -(points - top).square().sum(-1)


def suggest(box: Box, functions, exclude=(), pending=(), seed: int = 0) -> torch.Tensor:
    rule = ThompsonSampling(box.scaled, len(functions))
    return rule.suggest(Known(Functions(functions)), exclude=exclude, pending=pending, generator=seed)


def misfit(box: Box, place: Place) -> float:
    point = dict(zip(box.names, place.x, strict=True))
    assert list(box.check(point).values()) == list(place.x)
    return max((constraint.misfit(point) for constraint in box.constraints), default=0.0)


@pytest.mark.parametrize("name", SPACES)
def test_samples_and_proposals_are_points_of_the_box(name):
    box = SPACES[name]
    generator = torch.Generator().manual_seed(1)
    sampled = box.scaled.sample(300, generator=generator)
    slopes = torch.randn(3, box.dimension, generator=generator, dtype=torch.float64)
    proposed = suggest(box, [lambda p, w=w: torch.sin(3 * p) @ w for w in slopes])
    started = box.start(20, [], seed=5, generator=generator)
    places = [*box.places(sampled), *box.places(proposed), *started]
    assert max(misfit(box, place) for place in places) <= 1e-9
    assert len({place.x for place in started}) == 20
    torch.testing.assert_close(box.features(box.places(proposed)), proposed, rtol=0, atol=1e-12)


def test_samples_fill_what_constraints_leave():
    """The simplex x + y + z = 1: each part has mean 1/3 and variance 1/18, as Dirichlet(1, 1, 1)."""
    box = Box(dict.fromkeys("xyz", (0, 1)), constraints=[LinearConstraint(["x", "y", "z"], equals=1)])
    points = box.sample(4000, generator=torch.Generator().manual_seed(2))
    assert (points.mean(0) - 1 / 3).abs().max() < 4 / math.sqrt(18 * 4000)
    assert (points.var(0) - 1 / 18).abs().max() < 0.005
    thin = SPACES["thin"].sample(4000, generator=torch.Generator().manual_seed(2))
    shortfall = 1 - thin  # uniform between two simplices of sizes .19 and .2: mean size about .195 / 6 each
    assert (shortfall.mean(0) - 0.195 / 6).abs().max() < 0.003


@pytest.mark.parametrize("seed", range(3))
def test_a_mixed_optimum_is_that_of_brute_force(seed):
    """A different smooth function of t for each base and n, its top looked for on a fine grid."""
    box = Box({"t": (0, 1), "base": ["a", "b", "c", "d"], "n": Integer(0, 9)})
    generator = torch.Generator().manual_seed(seed)
    height, top = (torch.rand(4, 10, generator=generator, dtype=torch.float64) for _ in range(2))

    def function(p):
        base, n = p[..., 1:5].argmax(-1), (9 * p[..., 5]).round().long()
        return height[base, n] - 4 * (p[..., 0] - top[base, n]).square()

    (point,) = suggest(box, [function], seed=seed)
    assert float(function(point)) == pytest.approx(float(height.max()), abs=1e-4)
    (place,) = box.places(point[None])
    where = divmod(int(height.argmax()), 10)
    assert place.x[1:] == ("abcd"[where[0]], where[1])


def test_a_long_integer_column_is_crossed():
    box = Box({"n": Integer(-5000, 5000), "t": (0, 1)})
    target = box.features([Place(x=(3217, 0.25))])[0]
    points = suggest(box, [lambda p: distance(p, target)])
    ((n, t),) = (place.x for place in box.places(points))
    assert n == 3217
    assert t == pytest.approx(0.25, abs=1e-3)


def test_a_box_of_few_combinations_is_looked_at_whole():
    box = SPACES["few"]
    every = list(itertools.product("abc", (False, True), range(5)))
    assert box.capacity == len(every) == 30
    table = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = box.features([Place(x=cells) for cells in every])

    def function(p):
        return table[torch.cdist(p.reshape(-1, p.shape[-1]), codes).argmin(-1)].reshape(p.shape[:-1])

    best = [every[i] for i in table.argsort(descending=True).tolist()]
    known = box.taken([Place(x=cells) for cells in best[:3]])
    chosen = box.places(suggest(box, [function] * 4, exclude=known[:2], pending=known[2:]))
    assert [place.x for place in chosen] == best[3:7]
    with pytest.raises(InputError, match=r"30 points are asked for but only 27 of 30 combinations"):
        suggest(box, [function] * 30, exclude=known)
    with pytest.raises(InputError, match=r"31 points .* only 30 combinations"):
        ThompsonSampling(box, 31)


def test_many_combinations_are_searched_by_exchange():
    box = SPACES["many"]
    assert box.capacity == 300_000 > ENUMERATED
    target = box.features([Place(x=(3, 7, 0, 9, 4, "b"))])[0]
    first, second = (place.x for place in box.places(suggest(box, [lambda p: distance(p, target)] * 2)))
    assert first == (3, 7, 0, 9, 4, "b")
    differ = [abs(a - b) for a, b in zip(first[:5], second[:5], strict=True)]
    assert sum(differ) == 1
    assert second[5] == "b"


def test_constraints_count_the_combinations_that_are_left():
    pair = LinearConstraint(["n", "m"], at_most=2)
    assert Box({"n": Integer(0, 6), "m": Integer(0, 6)}, constraints=[pair]).capacity == 6
    exact = LinearConstraint(["n", "m"], at_least=12, at_most=12)
    assert Box({"n": Integer(0, 6), "m": Integer(0, 6)}, constraints=[exact]).capacity == 1
    with pytest.raises(InputError, match=r"no combination .* n \+ m <= -1"):
        Box(
            {"n": Integer(0, 6), "m": Integer(0, 6)},
            constraints=[LinearConstraint(["n", "m"], at_most=-1)],
        )


def test_the_best_point_lies_on_the_constraint():
    """Of all x + 2 y <= 1 the point nearest to (1, 1) is (.6, .2)."""
    box = Box({"x": (0, 1), "y": (0, 1)}, constraints=[LinearConstraint({"x": 1, "y": 2}, at_most=1)])
    (point,) = suggest(box, [lambda p: distance(p, torch.ones(2, dtype=torch.float64))])
    torch.testing.assert_close(point, torch.tensor([0.6, 0.2], dtype=torch.float64), rtol=0, atol=1e-3)
    (corner,) = suggest(SPACES["mixture"], [lambda p: p[..., 2] - p[..., 0]])
    torch.testing.assert_close(corner[:3], torch.tensor([0.2, 0.3, 1.0]).double(), rtol=0, atol=1e-3)


def apart(points: torch.Tensor, others: torch.Tensor) -> float:
    return float((points[:, None] - others[None]).abs().amax(-1).min())


def test_four_paths_with_one_corner_give_four_points():
    """A batch was four times the same corner, already measured."""
    box = Box([[0, 1], [0, 1]])
    corner = torch.ones(1, 2, dtype=torch.float64)
    points = suggest(box, [lambda p: p.sum(-1)] * 4, exclude=corner)
    assert apart(points, corner) > 1e-6
    assert min(apart(points[i : i + 1], points[:i]) for i in range(1, 4)) > 1e-6
    assert (points.sum(1) > 1.9).all()  # near the corner all the same


def test_repeats_are_told_in_shares_of_the_box():
    box = Box([[0, 1e9], [0, 1e-9]])
    known = KnownPoints(box.region, torch.tensor([[5e8, 5e-10]], dtype=torch.float64))
    near = torch.tensor([[5e8 + 900, 5e-10], [5e8 + 1100, 5e-10], [5e8, 5.1e-10]], dtype=torch.float64)
    assert known.holds(near).tolist() == [True, False, False]
    many = torch.rand(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * box.width
    shifted = many + 2e-6 * box.width * (torch.arange(500) % 2)[:, None]
    assert KnownPoints(box.region, many).holds(shifted).tolist() == [i % 2 == 0 for i in range(500)]


def test_another_optimum_is_taken_before_the_same_again():
    """Two narrow tops, the point found on the higher one known: the lower one follows, not a point beside the known."""
    box = Box([[0, 1]])
    tops = torch.tensor([[0.2], [0.7]], dtype=torch.float64)

    def function(p):
        low, high = (torch.exp(-((p - top) / 0.003).square().sum(-1)) for top in tops)
        return high + 0.9 * low

    first = suggest(box, [function])
    assert apart(first, tops[1:]) < 1e-3
    second = suggest(box, [function], exclude=first)
    assert apart(second, tops[:1]) < 1e-3


def test_excluded_points_must_be_points():
    box = Box([[0, 1], [0, 1]])
    for bad in ([0, 1], torch.ones(3), torch.ones(2, 3), ["a"], [[0.5]]):
        with pytest.raises(InputError, match=r"exclude must (hold|be) points \(k, 2\) of the box"):
            suggest(box, [lambda p: p.sum(-1)], exclude=bad)


def test_a_failed_point_is_not_asked_again(tmp_path):
    """17 of 24 questions were one corner that had failed."""
    quick = BoxSearch(rounds=2, candidates=128, starts=2, steps=10)
    campaign = Campaign(
        Box([[0, 1], [0, 1]]), tmp_path / "c.db", maximize=True, seed=0, num_initial=4, search=quick
    )
    asked = []
    for _ in range(8):
        for trial in campaign.ask(2):
            asked.append(trial.x)
            if max(trial.x) > 0.999:
                campaign.fail(trial.id, "burst")
            else:
                campaign.tell(trial.id, sum(trial.x))
    points = torch.tensor(asked, dtype=torch.float64)
    assert min(apart(points[i : i + 1], points[:i]) for i in range(1, len(points))) > 1e-6
    assert any(trial.state == "failed" for trial in campaign.results())


def test_a_campaign_over_categories_finds_the_best_and_then_ends(tmp_path):
    box = Box({"base": ["a", "b", "c", "d"], "n": Integer(1, 4)})
    worth = {"a": 0.0, "b": 3.0, "c": 1.0, "d": -1.0}
    campaign = Campaign(box, tmp_path / "c.db", maximize=True, seed=1, num_initial=6)
    seen = []
    for q in (6, 2, 2, 6):
        for trial in campaign.ask(q):
            base, n = trial.x
            seen.append((base, n))
            campaign.tell(trial.id, worth[base] - (n - 3) ** 2)
    assert sorted(seen) == sorted(itertools.product("abcd", range(1, 5)))
    assert seen.index(("b", 3)) < 10
    again = Campaign.open(tmp_path / "c.db")  # the box is known from the file
    assert again.space.describe() == box.describe()
    assert again.best()[0].x == ("b", 3)
    with pytest.raises(Exhausted, match="only 0 combinations"):
        again.ask(1)


def test_a_search_that_finds_no_more_says_that_the_box_is_exhausted(tmp_path):
    """The corner of 101^4 combinations that is allowed has five, all known."""
    names = "abcd"
    box = Box(
        {name: Integer(0, 100) for name in names},
        constraints=[LinearConstraint(dict.fromkeys(names, 1.0), at_least=399)],
    )
    quick = BoxSearch(rounds=1, candidates=32, starts=1, steps=3)
    campaign = Campaign(box, tmp_path / "c.db", maximize=True, seed=1, num_initial=2, search=quick)
    lower = [[100 - (i == j) for j in range(4)] for i in range(4)]
    campaign.attach_many([(point, float(sum(point))) for point in ([100] * 4, *lower)])
    with pytest.raises(Exhausted, match="the box is exhausted"):
        campaign.ask(1)


def test_start_points_go_on_where_the_others_ended():
    box = SPACES["plane"]
    generator = torch.Generator().manual_seed(0)
    first = box.start(7, [], seed=2, generator=generator)
    second = box.start(7, first, seed=2, generator=generator)
    assert len({place.x for place in [*first, *second]}) == 14


def test_categories_share_their_length_scale(tmp_path):
    box = Box({"t": (0, 1), "base": Categorical(["a", "b", "c"])})
    campaign = Campaign(box, tmp_path / "c.db", maximize=True, seed=0)
    points = [(i / 11, "abc"[i % 3]) for i in range(12)]
    campaign.attach_many([(x, x[0] + "abc".index(x[1])) for x in points])
    kernel = campaign.model().posterior.kernel
    scales = next(k.lengthscale for k in kernel.modules() if getattr(k, "has_lengthscale", False)).flatten()
    assert scales.shape == (4,)
    assert float(scales[1:].max()) == pytest.approx(float(scales[1:].min()))
    mean, _ = campaign.model().predict(box.features([Place(x=(0.5, "c")), Place(x=(0.5, "a"))]))
    assert mean[0] - mean[1] == pytest.approx(2.0, abs=0.3)

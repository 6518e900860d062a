"""Models of censored values, known noise, outliers and failures, and the utility that rules see."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from sggp.bayesopt import fit_surrogate
from sggp.bayesopt.outcomes import BeliefSettings, Constraint, Objective, Outcomes, build_beliefs
from sggp.bayesopt.outcomes.failures import fit_failures
from sggp.bayesopt.outcomes.outliers import suspects
from sggp.bayesopt.outcomes.utility import Constrained, chebyshev_weights
from sggp.bayesopt.trials import Measurement, Trial
from sggp.errors import InputError, OutlyingValues, ShapeError

FEW = BeliefSettings(num_samples=6, num_features=256)
ONE = Outcomes([Objective("y", True)])


@pytest.fixture(scope="module", autouse=True)
def _short_searches() -> None:
    """Here models are learnt as users learn them."""


def trial(id: int, values=None, policy=None) -> Trial:
    """A measured trial, or a failed one."""
    told = {name: Measurement.parse(value) for name, value in (values or {}).items()}
    state = "measured" if told else "failed"
    first = next(iter(told.values())).value if told else None
    return Trial(id, None, None, None, state, first, None, 0, "asked", "", "", values=told, policy=policy)


def inputs(rows: int, seed: int = 0, columns: int = 2) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def height(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(5 * x[:, 0]) + 2 * x[:, 1].square()


def beliefs_of(x, values, outcomes=ONE, settings=FEW, name="y"):
    told = [v if isinstance(v, Trial) else trial(i + 1, {name: v}) for i, v in enumerate(values)]
    return build_beliefs(x, outcomes, told, settings, 7)


# one plain objective, and noise


def test_one_plain_objective_is_the_surrogate_to_the_last_bit():
    x = inputs(20)
    y = height(x)
    beliefs = beliefs_of(x, y.tolist())
    plain = fit_surrogate(x, y, num_samples=6, num_features=256, generator=7)
    assert torch.equal(beliefs.posterior.samples(x), plain.posterior.samples(x))
    assert beliefs.maximize is True
    assert beliefs.scaling == (plain.offset, plain.scale)
    assert beliefs.failures is None
    assert not beliefs.apart


def test_noise_that_is_known_counts_row_by_row():
    """Replicates of one place: with equal noise their mean, with unequal noise the one that is precise."""
    x = inputs(12)
    y = height(x)
    again = torch.cat([x, x[:1], x[:1]])

    def at_first(stds):
        values = [(float(v), 0.01) for v in y[1:]]
        values = [(float(y[0]) - 0.3, stds[0]), *values, (float(y[0]), stds[1]), (float(y[0]) + 0.3, stds[2])]
        return float(beliefs_of(again, values).surrogate.predict(x[:1])[0])

    assert at_first((0.02, 0.02, 0.02)) == pytest.approx(float(y[0]), abs=0.03)
    assert at_first((0.001, 3.0, 3.0)) == pytest.approx(float(y[0]) - 0.3, abs=0.03)
    assert at_first((3.0, 3.0, 0.001)) == pytest.approx(float(y[0]) + 0.3, abs=0.03)


def test_noise_known_for_some_is_learnt_for_the_others():
    x = inputs(50)
    noise = torch.randn(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    std = torch.where(torch.arange(50) < 25, 0.05, 0.4)
    y = height(x) + std * noise
    values = [float(v) if i < 25 else (float(v), 0.4) for i, v in enumerate(y)]
    model = beliefs_of(x, values).surrogate
    assert 0.01 < model.noise_std < 0.15
    given = model.scale * model.posterior.data.noise_variance.sqrt()
    assert given[25:].tolist() == pytest.approx([0.4] * 25)
    assert given[:25].tolist() == pytest.approx([model.noise_std] * 25)


@pytest.mark.parametrize(
    ("noise", "error", "says"),
    [([0.1] * 4, ShapeError, "one number per value, 5"), ([-1.0] * 5, InputError, "not negative")],
)
def test_noise_that_cannot_be_is_refused(noise, error, says):
    with pytest.raises(error, match=says):
        fit_surrogate(inputs(5), (height(inputs(5)), torch.tensor(noise)), num_samples=1, generator=1)


# censored values


def scores(model, truth_at, truth):
    mean, std = model.predict(truth_at)
    density = torch.distributions.Normal(mean, std.clamp_min(1e-6)).log_prob(truth)
    return float((mean - truth).square().mean().sqrt()), float(density.mean())


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_fifth_of_censored_values_costs_little(side):
    """Far better than dropping them, or taking bounds for values, and near what all values would have given."""
    totals = torch.zeros(4, 2)
    for seed in range(2):
        x, anywhere = inputs(60, seed), inputs(300, seed + 100)
        noise = torch.randn(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        y, truth = side * (height(x) + 0.1 * noise), side * height(anywhere)
        bound = float((side * y).quantile(0.8)) * side
        beyond = (side * (y - bound) > 0).tolist()
        sign = ">" if side > 0 else "<"
        told = [f"{sign}{bound:.6f}" if far else v for v, far in zip(y.tolist(), beyond, strict=True)]
        taken = [bound if far else v for v, far in zip(y.tolist(), beyond, strict=True)]
        kept = ~torch.tensor(beyond)
        tables = [(x, y.tolist()), (x, told), (x[kept], y[kept].tolist()), (x, taken)]
        models = [beliefs_of(*table).surrogate for table in tables]
        totals += torch.tensor([scores(model, anywhere, truth) for model in models]) / 2
    (full, full_lpd), (error, lpd), (dropped, dropped_lpd), (bounds, bounds_lpd) = totals.tolist()
    assert error < 0.7 * dropped
    assert error < 0.6 * bounds
    assert error < 3.0 * full
    assert lpd > dropped_lpd + 0.1
    assert lpd > bounds_lpd + 1.0
    assert lpd > full_lpd - 0.6


def test_bounds_that_say_nothing_change_nothing():
    """y > -50 where all values lie between -1 and 3."""
    x = inputs(30)
    y = height(x[:25])
    alone = beliefs_of(x[:25], y.tolist()).surrogate.predict(x)[0]
    beside = beliefs_of(x, [*y.tolist(), *[">-50"] * 5]).surrogate.predict(x)[0]
    assert (alone - beside).abs().max() < 0.15
    assert beside.max() < 4


def test_all_values_may_be_censored():
    x = inputs(8)
    beliefs = beliefs_of(x, [">1"] * 4 + ["<0"] * 4)
    mean, std = beliefs.surrogate.predict(x)
    assert bool((mean[:4] > mean[4:].max()).all())
    assert bool(std.isfinite().all())


def test_paths_of_censored_values_spread_beyond_the_bound():
    """At a censored place half of what is known is the bound: the paths lie above it but for noise, and spread."""
    x = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None]
    values = [float(v) for v in 3 * x[:, 0]]
    beliefs = beliefs_of(
        x, [*values[:9], ">2.2", ">2.2", ">2.2"], settings=BeliefSettings(256, num_features=512)
    )
    model = beliefs.surrogate
    paths = model.offset + model.scale * beliefs.posterior.samples(x)[:, -1]
    mean, std = model.predict(x[-1:])
    assert float(paths.mean()) == pytest.approx(float(mean), abs=4 * float(std) / 16)
    assert float(paths.std()) == pytest.approx(float(std), rel=0.25)
    assert float((paths > 2.1).double().mean()) > 0.95


# outliers


@pytest.mark.parametrize(
    ("rows", "bad", "maximize"),
    [
        (60, 107.0, False),
        (20, 107.0, False),
        (20, 1e6, True),
        (20, 999.0, True),
        (20, -999.0, False),
        (30, -8e3, True),
    ],
)
def test_a_value_that_cannot_belong_is_set_apart_and_named(rows, bad, maximize):
    x = inputs(rows, rows)
    y = -8 + height(x)
    values = y.tolist()
    values[3] = bad
    wanted = Outcomes([Objective("score", maximize)])
    with pytest.warns(OutlyingValues, match="trial 4 has score = .* where all others.*amend"):
        beliefs = beliefs_of(x, values, wanted, name="score")
    assert [(a.trial, a.value) for a in beliefs.apart] == [(4, bad)]
    mean, _ = beliefs.surrogate.predict(x)
    assert float((mean - y).abs().max()) < 1.0


def test_a_value_is_kept_where_that_is_asked_for():
    x = inputs(20)
    values = height(x).tolist()
    values[3] = 107.0
    beliefs = beliefs_of(x, values, settings=BeliefSettings(2, num_features=64, outliers="keep"))
    assert not beliefs.apart
    with pytest.raises(InputError, match="'apart', 'keep'"):
        BeliefSettings(outliers="drop")


def test_a_discovery_and_a_wide_scale_are_no_outliers():
    generator = torch.Generator().manual_seed(1)
    x = inputs(40, 1)
    activity = 5 + 0.3 * torch.randn(40, generator=generator, dtype=torch.float64)
    activity[7] = 9.5
    wide = torch.exp(2.3 * torch.randn(40, generator=generator, dtype=torch.float64))
    wide[7] = 5000.0
    valley = 100 * (4 * x[:, 1] - (4 * x[:, 0]).square()).square()
    assert suspects(activity, 1.0) is None
    assert suspects(activity, -1.0) is not None
    assert suspects(wide, -1.0) is None
    assert suspects(valley, -1.0) is None
    assert suspects(torch.tensor([0.0] * 11 + [1.0]).double(), -1.0) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutlyingValues)
        assert not beliefs_of(x, activity.tolist()).apart


# failures


def test_failures_teach_where_not_to_go():
    x, anywhere = inputs(30, 3), inputs(400, 4)
    failures = fit_failures(x, x[:, 1] > 0.5, FEW, None, torch.Generator().manual_seed(1))
    chance, good = failures.probability(anywhere), anywhere[:, 1] <= 0.5
    assert float(((chance > 0.5) == good).double().mean()) > 0.9
    assert float(chance[good].mean()) > 0.8
    assert float(chance[~good].mean()) < 0.2
    paths = failures.of_paths(failures.posterior.samples(anywhere))
    assert float(paths[:, good].mean()) > 0.8
    assert float(paths[:, ~good].mean()) < 0.25


def test_one_failure_declares_nothing_dead():
    x = inputs(10, 3)
    failed = torch.zeros(10, dtype=torch.bool)
    assert fit_failures(x, failed, FEW, None, torch.Generator().manual_seed(1)) is None
    failed[0] = True
    failures = fit_failures(x, failed, FEW, None, torch.Generator().manual_seed(1))
    assert 0.2 < float(failures.probability(x[:1])) < 0.9
    assert float(failures.probability(x[:1])) < float(failures.probability(x[1:]).min())
    assert float(failures.probability(inputs(100, 5)).min()) > 0.3


def test_failures_of_counts():
    x = torch.randint(0, 3, (40, 24), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    failed = x[:, 0] == 0
    failures = fit_failures(x, failed, FEW, None, torch.Generator().manual_seed(1))
    chance = failures.probability(x)
    assert float(chance[failed].max()) < float(chance[~failed].min())


@pytest.mark.parametrize(
    ("policy", "at_failure"), [("imputed", "worst"), ("retry", "nothing"), ("excluded", "model")]
)
def test_policies_of_failure(policy, at_failure):
    x = inputs(20, 6)
    y = height(x)
    told = [trial(i + 1, {"y": float(v)}) for i, v in enumerate(y[:19])] + [trial(20, policy=policy)]
    beliefs = build_beliefs(x, ONE, told, FEW, 7)
    plain = fit_surrogate(x[:19], y[:19], num_samples=6, num_features=256, generator=7)
    assert (beliefs.failures is not None) == (at_failure == "model")
    mean = float(beliefs.surrogate.predict(x[19:])[0])
    if at_failure == "worst":
        assert mean == pytest.approx(float(y[:19].min()), abs=0.3)
    if at_failure == "nothing":
        assert torch.equal(beliefs.posterior.samples(x), plain.posterior.samples(x))


# what rules see


def constrained():
    x = inputs(25, 8)
    told = [
        trial(i + 1, {"y": float(v), "c": float(r[0])}) if r[1] < 0.8 else trial(i + 1)
        for i, (v, r) in enumerate(zip(height(x), x, strict=True))
    ]
    wanted = Outcomes(
        [Objective("y", False)], [Constraint("c", at_least=0.3, at_most=0.9), Constraint("z", at_most=1)]
    )
    return x, build_beliefs(x, wanted, told, FEW, 7)


def test_paths_of_the_utility_are_the_formula():
    x, beliefs = constrained()
    points = inputs(9, 9)
    model, limit = beliefs.models["y"], beliefs.models["c"]
    f, c = -model.posterior.samples(points), limit.posterior.samples(points)
    low, high = ((v - limit.offset) / limit.scale for v in (0.3, 0.9))
    over = (low - c).clamp_min(0) + (c - high).clamp_min(0)
    h = beliefs.failures.posterior.samples(points)
    success = torch.special.ndtr(beliefs.failures.mean + beliefs.failures.scale * h)
    target = model.posterior.y
    span = max(2.0, float(target.max() - target.min()))
    expected = f - torch.where(over > 0, 10 + 10 * over, 0) - (1 - success) * span
    samples = beliefs.posterior.samples
    assert torch.allclose(samples(points), expected, atol=1e-9)
    own = points.expand(6, 9, 2) + torch.arange(6)[:, None, None] * 0.01
    alone = torch.stack([samples(own[i])[i] for i in range(6)])
    assert torch.allclose(samples.paired(own), alone, atol=1e-8)
    assert torch.allclose(samples.select([4, 1])(points), samples(points)[[4, 1]], rtol=1e-9, atol=1e-9)
    assert 0 < int((over > 0).sum()) < over.numel()
    assert beliefs.maximize is True
    assert isinstance(beliefs.posterior, Constrained)


def test_moments_of_the_utility_are_those_of_the_parts():
    x, beliefs = constrained()
    points = inputs(9, 9).requires_grad_(True)
    mean, variance = beliefs.posterior.mean_and_variance(points)
    f, spread = beliefs.models["y"].posterior.mean_and_variance(points)
    c, width = beliefs.models["c"].predict(points.detach())
    normal = torch.distributions.Normal(c, width)
    chance = normal.cdf(torch.tensor(0.9)) - normal.cdf(torch.tensor(0.3))
    chance = chance * beliefs.failures.probability(points.detach())
    span = beliefs.posterior.samples.utility.span
    assert torch.allclose(mean, -f - (1 - chance) * span, atol=1e-6)
    assert torch.allclose(variance, spread)
    assert torch.allclose(beliefs.feasible(points), chance, atol=1e-6)
    (slope,) = torch.autograd.grad(mean.sum() + variance.sum(), points)
    assert bool(slope.isfinite().all())
    about = beliefs.posterior.samples_about_mean
    assert torch.allclose(
        about(points).detach(),
        (-beliefs.models["y"].posterior.samples(points) - (1 - chance) * span).detach(),
        atol=1e-6,
    )
    assert torch.allclose(about.select([2]).paired(points[None]), about(points)[2:3], atol=1e-8)
    assert len(beliefs.posterior.x) == len(beliefs.posterior.y) == int((x[:, 1] < 0.8).sum())
    offset, scale = beliefs.scaling
    assert (offset, scale) == (beliefs.models["y"].offset, -beliefs.models["y"].scale)


def two(settings=FEW):
    x = inputs(25, 10)
    told = [
        trial(i + 1, {"a": float(r.square().sum()), "b": float((r - 1).square().sum())})
        for i, r in enumerate(x)
    ]
    return x, build_beliefs(x, Outcomes([Objective("a", False), Objective("b", False)]), told, settings, 7)


def test_paths_of_two_objectives_are_augmented_chebyshev():
    x, beliefs = two()
    samples, points = beliefs.posterior.samples, inputs(9, 9)
    utility = samples.utility
    values = torch.stack([-beliefs.models[n].posterior.samples(points) for n in ("a", "b")], -1)
    z = (values - utility.low) / utility.width
    weighted = utility.weights[:, None] * (z - 1.05)
    assert torch.allclose(samples(points), weighted.amin(-1) + 0.05 * weighted.sum(-1), atol=1e-9)
    chosen = torch.tensor([3, 0])
    assert torch.allclose(samples.select(chosen)(points), samples(points)[chosen], rtol=1e-9, atol=1e-9)
    assert torch.allclose(samples.paired(points.expand(6, 9, 2)), samples(points), atol=1e-8)
    front = beliefs.posterior.front
    assert front.amin(0).tolist() == pytest.approx([0, 0], abs=1e-9)
    assert front.amax(0).tolist() == pytest.approx([1, 1], abs=1e-9)
    assert beliefs.posterior.reference.tolist() == pytest.approx([-0.1, -0.1])
    mean, variance = beliefs.posterior.mean_and_variance(points)
    again = beliefs.posterior.mean_and_variance(points)
    assert torch.equal(mean, again[0])
    assert bool((variance > 0).all())


def test_weights_are_uniform_on_the_simplex():
    weights = chebyshev_weights(4000, 3, torch.Generator().manual_seed(1))
    assert weights.sum(1).tolist() == pytest.approx([1.0] * 4000)
    assert weights.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert float((weights[:, 0] > 0.5).double().mean()) == pytest.approx(0.25, abs=0.03)


def test_a_stated_reference_is_in_the_units_of_the_outcomes():
    _, beliefs = two(BeliefSettings(2, num_features=64, reference=(2.0, 3.0)))
    utility, models = beliefs.posterior.samples.utility, beliefs.models
    back = -(utility.low + utility.width * beliefs.posterior.reference)
    units = [models[n].offset + models[n].scale * float(v) for n, v in zip(("a", "b"), back, strict=True)]
    assert units == pytest.approx([2.0, 3.0])
    with pytest.raises(ShapeError, match="one finite number for each objective"):
        two(BeliefSettings(2, reference=(1.0,)))
    with pytest.raises(InputError, match="one finite number for each objective"):
        two(BeliefSettings(2, reference=(1.0, math.inf)))


def test_what_cannot_be_modelled_is_refused():
    with pytest.raises(InputError, match="no measurement of 'y' yet"):
        build_beliefs(inputs(1), ONE, [trial(1)], FEW, 1)
    with pytest.raises(ShapeError, match="a row for each of the 1 trials"):
        build_beliefs(inputs(2), ONE, [trial(1, {"y": 1.0})], FEW, 1)

"""Campaigns of several outcomes, with constraints, failures, bounds, replicates and slips."""

from __future__ import annotations

import warnings

import pytest
import torch

from sggp.bayesopt import Box, BoxSearch, Campaign, Pool
from sggp.bayesopt.outcomes import Constraint, Objective, Outcomes, hypervolume, pareto, ranked, stated
from sggp.bayesopt.rules import HypervolumeThompson, ThompsonSampling
from sggp.bayesopt.trials import Measurement, Trial
from sggp.errors import InputError, OutlyingValues, ShapeError

UNIT = [[0.0, 1.0], [0.0, 1.0]]
QUICK = BoxSearch(rounds=2, candidates=128, starts=2, steps=15)
TWO = [Objective("near", False), Objective("far", False)]
NUMBERS = torch.float64


@pytest.fixture(scope="module", autouse=True)
def _short_searches() -> None:
    """Here models are learnt as users learn them."""


def campaign(folder, space=None, **options) -> Campaign:
    options = {"seed": 3, "num_features": 128, "search": QUICK, **options}
    return Campaign(space or Box(UNIT), folder / "c.db", **options)


def trial(id: int, state="measured", **values) -> Trial:
    told = {name: Measurement.parse(value) for name, value in values.items()}
    first = next(iter(told.values())).value if told else None
    return Trial(id, None, None, None, state, first, None, 0, "asked", "", "", values=told)


# what is said of results


def test_bounds_are_called_bounds_and_ranked_by_what_they_guarantee():
    trials = [
        trial(1, y=5),
        trial(2, y=">7"),
        trial(3, y="<9"),
        trial(4, y=7),
        trial(5, "pending"),
        trial(6, y=7.987654321098765),  # computed
        trial(7, y=4.987654321),  # told
    ]
    high, low = Outcomes([Objective("y", True)]), Outcomes([Objective("y", False)])
    assert [t.id for t in ranked(trials, high)] == [6, 2, 4, 1, 7, 3]
    assert [t.id for t in ranked(trials, low)] == [7, 1, 4, 6, 3, 2]
    assert [stated(t.measurement, "nM") for t in trials] == [
        "5.0 nM",
        ">7.0 nM",
        "<9.0 nM",
        "7.0 nM",
        "-",
        "7.98765 nM",
        "4.987654321 nM",
    ]


def test_best_trials_meet_the_constraints():
    wanted = Outcomes([Objective("y", True)], [Constraint("c", at_least=1)])
    trials = [
        trial(1, y=9, c=0.5),
        trial(2, y=3, c=2),
        trial(3, y=8),
        trial(4, y=5, c=">1"),
        trial(5, y=7, c="<3"),
    ]
    assert [t.id for t in ranked(trials, wanted)] == [4, 2, 1, 3, 5]


def test_front_of_trials():
    wanted = Outcomes([Objective("a", True, "%"), Objective("b", False)], [Constraint("c", at_most=1)])
    trials = [
        trial(1, a=1, b=1, c=0),
        trial(2, a=3, b=2, c=0),
        trial(3, a=2, b=3, c=0),
        trial(4, a=">4", b=5, c="<1"),
        trial(5, a=9, b=0, c=2),
        trial(6, a="<9", b=0, c=0),
        trial(7, a=9),
        trial(8, "failed"),
    ]
    front = pareto(trials, wanted, reference=(0, 10))
    assert [t.id for t in front.trials] == [4, 2, 1]
    assert front.rows() == [["4", ">4.0 %", "5.0"], ["2", "3.0 %", "2.0"], ["1", "1.0 %", "1.0"]]
    assert front.values.tolist() == [[4, 5], [3, 2], [1, 1]]
    assert front.hypervolume == pytest.approx(4 * 5 + 3 * 3 + 1 * 1)
    assert [t.id for t in front.left_out] == [5, 6, 7]
    assert pareto(trials, wanted).reference.tolist() == pytest.approx([0.7, 5.4])
    assert pareto([], wanted).hypervolume is None
    with pytest.raises(ShapeError, match=r"each objective \('a', 'b'\)"):
        pareto(trials, wanted, reference=[1])


# campaigns


def test_what_is_wanted_is_stored_and_checked(tmp_path):
    one = campaign(
        tmp_path, objectives=[Objective("y", "max", "%")], constraints=[Constraint("c", at_most=2)]
    )
    assert one.wanted == Outcomes([Objective("y", True, "%")], [Constraint("c", at_most=2.0)])
    assert Campaign(None, tmp_path / "c.db").wanted == one.wanted
    assert one.outcomes == ["y", "c"]
    plain = Campaign(Box(UNIT), tmp_path / "d.db", maximize=False, constraints=[Constraint("c", at_most=2)])
    assert plain.outcomes == ["value", "c"]
    assert plain.wanted.objectives == (Objective("value", False),)
    with pytest.raises(InputError, match="never be met"):
        Campaign(
            Box(UNIT),
            tmp_path / "e.db",
            maximize=True,
            constraints=[{"name": "c", "at_least": 2, "at_most": 1}],
        )
    with pytest.raises(InputError, match="more than once"):
        Campaign(Box(UNIT), tmp_path / "e.db", objectives=[Objective("y", True)] * 2)
    assert not (tmp_path / "e.db").exists()


def distances(x) -> dict[str, float]:
    """To two points: the front is the segment between them."""
    return {"near": (x[0] - 0.2) ** 2 + (x[1] - 0.5) ** 2, "far": (x[0] - 0.8) ** 2 + (x[1] - 0.5) ** 2}


def share(trials) -> float:
    """Of the hypervolume that the whole front has, by the points measured."""
    t = torch.linspace(0, 0.6, 400, dtype=NUMBERS)
    whole = hypervolume(
        -torch.stack([t.square(), (0.6 - t).square()], 1), torch.tensor([-0.5, -0.5], dtype=NUMBERS)
    )
    found = [[-trial.values["near"].value, -trial.values["far"].value] for trial in trials]
    return hypervolume(torch.tensor(found, dtype=NUMBERS), torch.tensor([-0.5, -0.5], dtype=NUMBERS)) / whole


def test_two_objectives_reach_the_front(tmp_path):
    both = campaign(tmp_path, objectives=TWO, num_initial=6)
    assert both.settings["rule"] == "hypervolume"
    for q in (6, 4, 4):
        for asked in both.ask(q):
            both.tell(asked.id, distances(asked.x))
    points = Box(UNIT).sample(14, generator=torch.Generator().manual_seed(1)).tolist()
    chance = share([trial(i, **distances(x)) for i, x in enumerate(points)])
    assert share(both.results()) > 0.93
    assert share(both.results()) > chance + 0.05
    front = both.pareto(reference=(0.5, 0.5))
    assert len(front.trials) >= 6
    assert "hypervolume along sample" in both.results()[-1].why
    assert front.hypervolume == pytest.approx(share(both.results()) * 0.25, rel=0.35)


@pytest.mark.parametrize("rule", [ThompsonSampling, HypervolumeThompson])
def test_two_objectives_in_a_pool(tmp_path, rule):
    table = Box(UNIT).sample(300, generator=torch.Generator().manual_seed(2))
    both = campaign(tmp_path, Pool(table, chunk_size=64), objectives=TWO, rule=rule, num_initial=8)
    for q in (8, 5, 5):
        for asked in both.ask(q):
            both.tell(asked.id, distances(table[asked.index].tolist()))
    rows = [t.index for t in both.results()]
    assert len(set(rows)) == 18
    assert share(both.results()) > 0.85
    late = both.results()[-5:]
    spread = torch.tensor([t.values["near"].value for t in late]).std()
    assert float(spread) > 0.01


def test_constraint_is_kept_to(tmp_path):
    """The best of y = x₀ + x₁ with x₀ ≤ 0.4, of which the model knows only what it measured."""
    kept = campaign(
        tmp_path, objectives=[Objective("y", True)], constraints=[Constraint("c", at_most=0.4)], num_initial=6
    )
    for q in (6, 3, 3, 3):
        for asked in kept.ask(q):
            kept.tell(asked.id, {"y": asked.x[0] + asked.x[1], "c": asked.x[0]})
    best = kept.best()[0]
    assert best.values["c"].value <= 0.4
    assert best.value > 1.35
    late = [t.values["c"].value for t in kept.results()[9:]]
    assert sum(c <= 0.42 for c in late) >= 5


@pytest.mark.parametrize("rule", ["thompson", "ei"])
def test_failing_half_of_a_box_is_left(tmp_path, rule):
    """The objective grows into the half where nothing can be measured."""
    half = campaign(tmp_path, maximize=True, num_initial=6, rule=rule)
    for q in (8, 5, 3, 3, 3):
        for asked in half.ask(q):
            if asked.x[0] > 0.5:
                half.fail(asked.id, "precipitated")
            else:
                half.tell(asked.id, asked.x[0] - (asked.x[1] - 0.3) ** 2)
    late = [t.state for t in half.results()[-6:]]
    assert late.count("failed") <= 2
    assert half.best()[0].value > 0.4


def test_bounds_are_used_and_said(tmp_path):
    """An assay that reads up to 0.6: the search goes on beyond, and nothing says 0.6 was measured."""
    read = campaign(tmp_path, maximize=True, num_initial=8)
    for q in (10, 4):
        for asked in read.ask(q):
            value = asked.x[0] * asked.x[1]
            read.tell(asked.id, ">0.4" if value > 0.4 else value)
    best = read.best()[0]
    assert stated(best.measurement) == ">0.4"
    bounded = next(t for t in read.results() if t.measurement.censored)
    mean, _ = read.model(generator=1).predict(torch.tensor([bounded.x], dtype=NUMBERS))
    assert float(mean) > 0.4
    assert sum(t.x[0] * t.x[1] > 0.4 for t in read.results()[10:]) >= 3


def test_replicates_are_averaged_by_their_noise(tmp_path):
    twice = campaign(tmp_path, maximize=True)
    points = Box(UNIT).sample(12, generator=torch.Generator().manual_seed(4)).tolist()
    twice.attach_many((x, (x[0], 0.01)) for x in points)
    twice.attach_many([([0.5, 0.5], (0.3, 0.02)), ([0.5, 0.5], (0.9, 5.0))])
    mean, _ = twice.model(generator=1).predict(torch.tensor([[0.5, 0.5]], dtype=NUMBERS))
    assert float(mean) == pytest.approx(0.3, abs=0.06)


def test_a_failed_docking_told_as_a_score_is_named(tmp_path):
    """+107 among scores of -5 to -11: the batch is that of the other scores, and trial and value are named."""
    points = Box(UNIT).sample(30, generator=torch.Generator().manual_seed(4)).tolist()
    scores = [-5 - 6 * x[0] * (1 - abs(x[1] - 0.5)) for x in points]
    docked = campaign(tmp_path, maximize=False, num_initial=5)
    docked.attach_many(zip(points, [*scores[:12], 107.0, *scores[13:]], strict=True))
    with pytest.warns(OutlyingValues, match="trial 13 has value = 107 .*amend.*withdraw"):
        asked = docked.ask(3)
    assert sum(t.x[0] > 0.85 and abs(t.x[1] - 0.5) < 0.2 for t in asked) >= 2
    docked.amend(13, scores[12], "the docking had failed")
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutlyingValues)
        docked.ask(1)


def test_rule_hypervolume_refuses_one_objective(tmp_path):
    one = campaign(tmp_path, maximize=True, rule="hypervolume", num_initial=2)
    for asked in one.ask(2):
        one.tell(asked.id, asked.x[0])
    with pytest.raises(InputError, match="for two or three objectives"):
        one.ask(1)


def test_an_objective_that_nobody_has_told_yet_waits_for_its_model(tmp_path):
    """Yields come at once, costs a day later: meanwhile points are spread out."""
    wanted = [Objective("yield", maximize=True), Objective("cost", maximize=False)]
    campaign = Campaign(Box([[0.0, 1.0]]), tmp_path / "c.db", objectives=wanted, seed=1, num_initial=2)
    for trial in campaign.ask(2):
        campaign.tell(trial.id, {"yield": trial.x[0]})
    more = campaign.ask(2)
    assert all("no model yet" in trial.why for trial in more)
    assert len({trial.x for trial in campaign.results()}) == 4

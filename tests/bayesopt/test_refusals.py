"""Every entrance of the room with what it cannot use: a typed error in words, and nothing stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.bayesopt import Box, BoxSearch, Campaign, Pool, ThompsonSampling, maximise_pool
from sggp.bayesopt.screening import random_screenings, screen
from sggp.errors import SggpError
from tests.bayesopt.paths import Known, Table

pd = pytest.importorskip("pandas", reason="pandas is not installed")

BOX = [[0.0, 1.0], [-2.0, 2.0]]
COUNTS = torch.randint(0, 3, (12, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
NAN, INF = float("nan"), float("inf")

NOT_WHOLE = (2.0, True, "3", b"3", 1j, NAN, [1], torch.tensor([1, 2]), torch.tensor(True), object(), 2**70)
NOT_POSITIVE = (*NOT_WHOLE, None, 0, -1)
NOT_FINITE = (
    NAN,
    INF,
    -INF,
    "1.5",
    "wet",
    None,
    True,
    1j,
    torch.tensor(1j),
    [1.0, 2.0],
    {},
    10**400,
    object(),
)
NO_MEASUREMENT = (
    *(bad for bad in NOT_FINITE if bad != "1.5"),
    "1,5",
    "nan",
    "~3",
    (1.0, -1.0),
    (1, 2, 3),
    {"a": 1},
)
NOT_ROWS = (12, -1, [0, 12], [1.5], ["a"], "ab", {"a": 1}, object(), torch.zeros(3, dtype=torch.bool), [1j])

# entrance, what it is given
ENTRANCES = {
    "Box": (
        lambda bad, _: Box(bad),
        (
            {"x": 1},
            None,
            3,
            "box",
            [],
            [[0, 1, 2]],
            [[1, 0]],
            [[1, 1]],
            [[0, NAN]],
            [[0, INF]],
            [["a", "b"]],
            [[0, 1], [0]],
            [[None, 1]],
            [[0, 1j]],
            [0.0, 1.0],
            torch.zeros(2, 2, dtype=torch.complex64),
            object(),
        ),
    ),
    "Box.check": (
        lambda bad, _: Box(BOX).check(bad),
        (
            None,
            "x",
            {"x": 1},
            [0.5],
            [2.0, 0.0],
            [NAN, 0.0],
            ["a", "b"],
            [[0.1], [0.1, 0.2]],
            [1j, 0],
            object(),
        ),
    ),
    "Box.sample": (
        lambda bad, _: Box(BOX).sample(bad, generator=torch.Generator()),
        (*NOT_WHOLE, None, -1),
    ),
    "Box.to_unit": (
        lambda bad, _: Box(BOX).to_unit(bad),
        (None, "x", [0.5], [["a", "b"]], [[0.1], [0.1, 0.2]]),
    ),
    "Pool": (
        lambda bad, _: Pool(bad),
        (
            None,
            3,
            "CCO",
            {"a": 1},
            {1, 2},
            ["CCO", "CO"],
            [[1, 2], [3]],
            [],
            np.array(["CCO"]),
            object(),
            np.zeros((2, 2), dtype=complex),
            np.zeros((0, 3)),
            np.zeros((3, 0)),
            np.zeros(3),
            np.zeros((2, 2, 2)),
            torch.zeros(3),
            torch.tensor([[NAN]]),
            np.array([[INF]]),
            torch.zeros(2, 2).to_sparse(),
            range(3),
            pd.DataFrame({"a": ["CCO", "CO", "CN"]}),
            pd.DataFrame({"a": ["x", None]}),
            pd.DataFrame({"a": ["x", 1]}),
            pd.DataFrame({"a": ["x", "x"]}),
            pd.DataFrame({"a": ["x", "y"], "b": [1.0, NAN]}),
            pd.Series(["CCO"]),
            np.array([[1, None]]),
            [torch.zeros(2), "a"],
        ),
    ),
    "Pool.rows": (lambda bad, _: Pool(COUNTS).rows(bad), (*NOT_ROWS, None)),
    "Pool.chunk_size": (lambda bad, _: Pool(COUNTS, chunk_size=bad), NOT_POSITIVE),
    "Pool.chunks": (lambda bad, _: list(Pool(COUNTS).chunks(bad)), (*NOT_WHOLE, 0, -1)),
    "maximise_pool.exclude": (
        lambda bad, _: maximise_pool(
            Table(torch.zeros(2, 12), []), Pool(torch.arange(12)[:, None]), exclude=bad
        ),
        NOT_ROWS,
    ),
    "BoxSearch.rounds": (lambda bad, _: BoxSearch(rounds=bad), NOT_POSITIVE),
    "BoxSearch.rate": (lambda bad, _: BoxSearch(learning_rate=bad), (*NOT_FINITE, 0.0, -1.0)),
    "BoxSearch.share": (lambda bad, _: BoxSearch(uniform_share=bad), (*NOT_FINITE, 1.5, -0.1)),
    "ThompsonSampling.space": (lambda bad, _: ThompsonSampling(bad, 1), (BOX, COUNTS, None, "box", Box)),
    "ThompsonSampling.batch_size": (lambda bad, _: ThompsonSampling(Box(BOX), bad), NOT_POSITIVE),
    "ThompsonSampling.maximize": (
        lambda bad, _: ThompsonSampling(Box(BOX), 1, maximize=bad),
        ("no", None, 1, 0.0),
    ),
    "ThompsonSampling.search": (lambda bad, _: ThompsonSampling(Box(BOX), 1, search=bad), ({}, 8, "hard")),
    "suggest.posterior": (
        lambda bad, _: ThompsonSampling(Pool(COUNTS), 1).suggest(bad, generator=0),
        (None, COUNTS, 3, "posterior"),
    ),
    "suggest.exclude": (
        lambda bad, _: ThompsonSampling(Pool(torch.arange(12)[:, None]), 2).suggest(
            Known(Table(torch.zeros(2, 12), [])), exclude=bad, generator=0
        ),
        (*NOT_ROWS, None),
    ),
    "suggest.generator": (
        lambda bad, _: ThompsonSampling(Pool(torch.arange(12)[:, None]), 2).suggest(
            Known(Table(torch.zeros(2, 12), [])), generator=bad
        ),
        (1.5, True, "seed", 2**70),
    ),
    "ask": (lambda bad, campaign: campaign.ask(bad), NOT_POSITIVE),
    "tell.value": (lambda bad, campaign: campaign.tell(1, bad), NO_MEASUREMENT),
    "tell.id": (lambda bad, campaign: campaign.tell(bad, 1.0), (*NOT_WHOLE, None, 0, -1, 99)),
    "tell_many": (
        lambda bad, campaign: campaign.tell_many(bad),
        (
            None,
            3,
            [1],
            [(1,)],
            [(1, 1.0, 2)],
            [(1, 1.0), (99, 1.0)],
            [(1, 1.0), (2, None)],
            [(1, 1.0), (1, 2.0)],
            {1: 1.0, 99: 2.0},
        ),
    ),
    "fail.id": (lambda bad, campaign: campaign.fail(bad), (*NOT_WHOLE, None, 99)),
    "fail.policy": (lambda bad, campaign: campaign.fail(1, policy=bad), ("retried", "", None, 3, True)),
    "tell.cost": (
        lambda bad, campaign: campaign.tell(1, 1.0, cost=bad),
        (*(b for b in NOT_FINITE if b is not None), -1),
    ),
    "amend.id": (lambda bad, campaign: campaign.amend(bad, 1.0, "why"), (*NOT_WHOLE, None, 99, 1)),
    "amend.value": (lambda bad, campaign: campaign.amend(1, bad, "why"), NO_MEASUREMENT),
    "withdraw.id": (lambda bad, campaign: campaign.withdraw(bad, "why"), (*NOT_WHOLE, None, 99)),
    "withdraw.why": (lambda bad, campaign: campaign.withdraw(1, bad), ("", " ", None, 3, b"why", "a\0")),
    "repeat.id": (lambda bad, campaign: campaign.repeat(bad), (*NOT_WHOLE, None, 99)),
    "repeat.count": (lambda bad, campaign: campaign.repeat(1, bad), NOT_POSITIVE),
    "history": (lambda bad, campaign: campaign.history(bad), (*NOT_WHOLE, 99)),
    "export": (lambda bad, campaign: campaign.export(bad), (None, 3, "/nowhere/at/all.jsonl")),
    "attach.x": (
        lambda bad, campaign: campaign.attach(bad, 1.0),
        (None, "x", {"x": 1}, [0.5], [2.0, 0.0], [NAN, 0.0], ["a", "b"], [1j, 0], object()),
    ),
    "attach.value": (lambda bad, campaign: campaign.attach([0.5, 0.0], bad), NO_MEASUREMENT),
    "attach_many": (
        lambda bad, campaign: campaign.attach_many(bad),
        (
            None,
            3,
            [[0.5, 0.0, 1.0]],
            [([0.5, 0.0], 1.0), ([9.0, 0.0], 1.0)],
            [([0.5, 0.0], 1.0), ([0.5, 0.0], "a")],
        ),
    ),
    "best": (lambda bad, campaign: campaign.best(bad), (*NOT_WHOLE, None, -1)),
    "model": (lambda bad, campaign: campaign.model(bad), NOT_POSITIVE),
}


def refuse(call, given) -> int:
    """`call` raises an error of the package that says something, for each value that it is given: how many did."""
    count = 0
    for bad in given:
        with pytest.raises(SggpError, match=r".{20,}"):
            call(bad)
        count += 1
    return count


@pytest.fixture
def campaign(tmp_path) -> Campaign:
    campaign = Campaign(Box(BOX), tmp_path / "c.db", maximize=True, seed=1)
    campaign.ask(2)
    return campaign


@pytest.mark.parametrize(("call", "given"), ENTRANCES.values(), ids=ENTRANCES)
def test_what_cannot_be_used_is_refused_in_words(call, given, campaign):
    before = campaign.results()
    refuse(lambda bad: call(bad, campaign), given)
    assert campaign.results() == before


SETTINGS = {
    "space": (BOX, COUNTS, None, {"x": (0, 1)}),
    "storage": (None, 3, b"c.db", [], object()),
    "maximize": ("no", 1, 0.0, None, "", "maxi", b"max", ["max"]),
    "objectives": ("yield", 3, {"name": "a", "maximize": True}, [3], [{"name": "", "maximize": True}]),
    "constraints": ("purity", 3, [object()]),
    "budget": ("ten", -1.0, NAN, INF, True, [1]),
    "kernel": ("matern52", 3, {}),
    "num_initial": (*NOT_WHOLE, 0, -1),
    "num_features": NOT_POSITIVE,
    "search": ({}, 3, "hard"),
    "seed": (1.5, True, "seed", 2**70),
    "info": ([1], "text", {"a": object()}, {"a": {1, 2}}),
    "rule": ("oracle", 3, b"thompson", ThompsonSampling(Box(BOX), 1)),
}


@pytest.mark.parametrize(("name", "given"), SETTINGS.items())
def test_a_campaign_that_cannot_start_leaves_no_file(tmp_path, monkeypatch, name, given):
    monkeypatch.chdir(tmp_path)
    usual = {"space": Box(BOX), "storage": "c.db", "maximize": True}
    refuse(lambda bad: Campaign(**{**usual, name: bad}), given)
    assert list(tmp_path.iterdir()) == []


POOL_PLACES = (
    None,
    12,
    -1,
    1.5,
    True,
    "CCO",
    b"CCO",
    {"row": 1},
    [0.5, 0, 0, 0],
    [300, 0, 0, 0],
    [-1, 0, 0, 0],
)
POOL_PLACES = (*POOL_PLACES, [1, 1, 1], [NAN, 0, 0, 0], ["a"] * 4, torch.zeros(2, 4), [1j, 0, 0, 0], object())


def test_a_place_that_is_not_of_the_pool_is_refused(tmp_path):
    campaign = Campaign(Pool(COUNTS), tmp_path / "c.db", maximize=True, seed=1)
    refuse(lambda bad: campaign.attach(bad, 1.0), POOL_PLACES)
    assert campaign.results() == []


VALUES = COUNTS.sum(1).double()
SCREENING = {
    "table": (None, 3, ["CCO"], COUNTS[0]),
    "values": (None, "abc", VALUES[:1], torch.full((12,), NAN), ["a"] * 12, VALUES.reshape(3, 4)),
    "known": ([], [1, 1], [12], [1.5], "ab", None, 3.0),
    "rounds": (*NOT_POSITIVE, 12),
    "batch_size": (*NOT_POSITIVE, 12),
    "maximize": ("no", None, 1),
}


@pytest.mark.parametrize(("name", "given"), SCREENING.items())
def test_a_screening_that_cannot_run_is_refused(name, given):
    usual = {"table": COUNTS, "values": VALUES, "known": [0, 1], "rounds": 1, "batch_size": 2}
    assert refuse(lambda bad: screen(**{**usual, name: bad}), given) == len(given)
    usual = {"values": VALUES, "known": [0, 1], "rounds": 1, "batch_size": 2, "repeats": 2}
    if name != "table":
        assert refuse(lambda bad: random_screenings(**{**usual, name: bad}), given) == len(given)


@pytest.mark.parametrize("bad", [[["a", 1]], 3])
def test_the_message_shows_the_form_of_bounds(bad):
    with pytest.raises(SggpError, match=r"\[\[0.0, 1.0\], \[-5.0, 10.0\]\]"):
        Box(bad)


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float64(2), np.float32(2), np.int64(2), torch.tensor(2.0), np.array(2.0)]
)
def test_every_number_is_a_measurement(campaign, value):
    assert campaign.tell(np.int64(1), value).value == 2.0
    assert campaign.tell_many({2: value})[0].value == 2.0
    assert [trial.id for trial in campaign.best(np.int32(2))] == [1, 2]
    assert len(campaign.ask(torch.tensor(1))) == 1


@pytest.mark.parametrize(
    "value",
    [
        np.ma.masked,
        np.ma.array([2.0], mask=[True]),
        np.ma.array(2.0, mask=True),
        np.timedelta64(2, "ns"),
        np.datetime64(2, "ns"),
    ],
)
def test_what_numpy_makes_a_number_of_is_no_measurement(campaign, value):
    """NumPy says that a masked cell is 0."""
    with pytest.raises(SggpError, match="finite number"):
        campaign.tell(1, value)
    assert campaign.tell(1, np.ma.array([2.0], mask=[False])).value == 2.0


@pytest.mark.parametrize(
    "table",
    [
        COUNTS.numpy(),
        COUNTS.numpy()[::-1][::-1],
        COUNTS.tolist(),
        tuple(map(tuple, COUNTS.tolist())),
        pd.DataFrame(COUNTS.numpy()),
        np.broadcast_to(COUNTS.numpy(), COUNTS.shape),  # read-only
        COUNTS.numpy().astype(">u2"),
    ],
)
def test_numbers_in_any_container_make_the_same_campaign(tmp_path, table):
    chosen = []
    for number, given in enumerate((COUNTS, table)):
        campaign = Campaign(
            Pool(given, kind="counts"), tmp_path / f"{number}.db", maximize=True, seed=1, num_initial=5
        )
        for trial in [*campaign.ask(5), *campaign.ask(2)]:
            if trial.state == "pending" and trial.id <= 5:
                campaign.tell(trial.id, float(COUNTS[trial.index].sum()))
        chosen.append([trial.index for trial in [*campaign.results(), *campaign.ask(2)]])
    assert chosen[0] == chosen[1]
    assert Pool(table).rows([3]).tolist() == COUNTS[3:4].tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"costs": {1: 2.0, 3: 5.0}}, "costs are of trials 3, which are neither"),
        ({"costs": [2.0]}, "expected .id, cost. pairs"),
        ({"failed": ["dry"]}, "expected .id, reason. pairs"),
        ({"failed": {"2": "dry"}}, "must be an integer"),
    ],
)
def test_costs_and_failures_of_no_trial_are_refused(campaign, given, message):
    campaign.ask(3)
    before = campaign.results()
    with pytest.raises(SggpError, match=message):
        campaign.tell_many({1: 1.0}, **given)
    assert campaign.results() == before


@pytest.mark.parametrize("costs", [{0: 3.0}, 3.0, "3"])
def test_costs_of_attached_values_come_in_their_order(campaign, costs):
    with pytest.raises(SggpError, match="one for each measurement"):
        campaign.attach_many([([0.5, 0.5], 1.0)], costs=costs)

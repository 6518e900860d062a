"""Results are told, corrected, taken back, censored and paid for, and the journal says all of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sggp.bayesopt import Box, Campaign, Pool
from sggp.bayesopt.storage.journal import replay
from sggp.bayesopt.trials import Measurement
from sggp.errors import BudgetWarning, DataFileError, Exhausted, InputError

BOX = Box([[0.0, 1.0], [-2.0, 2.0]])
OBJECTIVES = [
    {"name": "yield", "maximize": True, "unit": "%"},
    {"name": "cost", "maximize": False, "unit": ""},
]


@pytest.fixture
def campaign(tmp_path) -> Campaign:
    """Trials 1, 2, 3 measured as these, 4 and 5 pending."""
    campaign = Campaign(BOX, tmp_path / "c.db", maximize=True, seed=1)
    campaign.ask(5)
    campaign.tell_many({1: 1.0, 2: 2.0, 3: 3.0})
    return campaign


@pytest.mark.parametrize(
    ("given", "value", "noise", "censored"),
    [
        (7, 7.0, None, None),
        ("7.1", 7.1, None, None),
        (">10", 10.0, None, "above"),
        (" >= 1e3 ", 1000.0, None, "above"),
        ("<0.1", 0.1, None, "below"),
        ("\u2264\u22128.5", -8.5, None, "below"),  # with the signs of a word processor
        ((3, 0.1), 3.0, 0.1, None),
        ((">3", np.float32(0.5)), 3.0, 0.5, "above"),
        (Measurement(-8.8, 0.2, "below"), -8.8, 0.2, "below"),
        (torch.tensor(2), 2.0, None, None),
    ],
)
def test_measurements_are_numbers_texts_or_pairs(campaign, given, value, noise, censored):
    trial = campaign.tell(4, given)
    assert trial.measurement == Measurement(value, noise, censored)
    assert Campaign.open(campaign.store).results()[3].measurement == trial.measurement
    assert Measurement.parse(str(trial.measurement)) == Measurement(value, None, censored)
    assert trial.value == value


def test_a_value_is_corrected_with_a_reason(campaign):
    campaign.amend(2, 0.5, "decimal point")
    assert [t.value for t in campaign.best(3)] == [3.0, 1.0, 0.5]
    told, amended = campaign.history(2)[1:]
    assert (told.data["values"], amended.data["values"]) == ({"value": [2.0]}, {"value": [0.5]})
    assert (amended.what, amended.reason, amended.at[-6:]) == ("amended", "decimal point", "+00:00")
    assert amended.program.startswith("sggp")
    for why in ("", "  ", None, 3):
        with pytest.raises(InputError, match="why"):
            campaign.amend(2, 0.7, why)
    with pytest.raises(InputError, match="no value to correct"):
        campaign.amend(4, 1.0, "too early")
    campaign.fail(4, "dropped")
    assert campaign.amend(4, 4.0, "found it").state == "measured"
    with pytest.raises(InputError, match=r"already measured as 0\.5"):
        campaign.tell(2, 2.0)


def test_a_trial_is_taken_back(campaign):
    assert campaign.withdraw(3, "contaminated").state == "withdrawn"
    campaign.withdraw(4, "no material")
    assert [t.id for t in campaign.best(5)] == [2, 1]
    assert [t.id for t in campaign.pending] == [5]
    assert campaign.model(generator=0).x.shape[0] == 2
    with pytest.raises(InputError, match=r"withdrawn \(no material\)"):
        campaign.tell(4, 1.0)
    assert campaign.amend(3, 3.5, "was clean after all").value == 3.5
    last = campaign.store.snapshot().last
    campaign.withdraw(4, "again")
    assert campaign.store.snapshot().last == last


def test_the_row_of_a_trial_taken_back_or_to_be_retried_is_free(tmp_path):
    campaign = Campaign(Pool(torch.arange(5)[:, None]), tmp_path / "c.db", maximize=True, seed=1)
    rows = [trial.index for trial in campaign.ask(5)]
    with pytest.raises(Exhausted):
        campaign.ask(1)
    campaign.withdraw(1, "broken")
    campaign.fail(2, "no signal", policy="retry")
    campaign.fail(3, "no signal")
    campaign.fail(4, "toxic", policy="imputed")
    assert {t.index for t in campaign.ask(2)} == set(rows[:2])
    with pytest.raises(Exhausted):
        campaign.ask(1)


@pytest.mark.parametrize(("maximize", "worst"), [("maximise", 1.0), ("MIN", 3.0)])
def test_an_imputed_failure_is_as_bad_as_the_worst(tmp_path, maximize, worst):
    campaign = Campaign(BOX, tmp_path / "c.db", maximize=maximize, seed=1)
    campaign.ask(5)
    campaign.tell_many([(1, 1.0), (2, 3.0)])
    campaign.fail(3, "flat", policy="imputed")
    campaign.fail(4, "flat")
    model = campaign.model(generator=0)
    assert model.x.shape[0] == 3
    assert float(model.offset + model.scale * model.target[2]) == pytest.approx(worst)
    assert (campaign.results()[2].value, campaign.results()[2].policy) == (None, "imputed")


@pytest.mark.parametrize(
    ("word", "larger"),
    [
        ("max", True),
        ("Maximize", True),
        (" maximise", True),
        ("min", False),
        ("minimise", False),
        (np.False_, False),
    ],
)
def test_the_direction_is_a_word_or_a_truth_value(tmp_path, word, larger):
    assert Campaign(BOX, tmp_path / "c.db", maximize=word).maximize is larger
    with pytest.raises(InputError, match="imised"):
        Campaign(BOX, tmp_path / "c.db", maximize="min" if larger else "max")


def test_several_outcomes_are_told_by_name(tmp_path):
    constraints = [{"name": "purity", "at_least": 0.9, "at_most": None, "unit": ""}]
    campaign = Campaign(BOX, tmp_path / "c.db", objectives=OBJECTIVES, constraints=constraints, seed=1)
    assert (campaign.maximize, campaign.outcomes) == (True, ["yield", "cost", "purity"])
    campaign.ask(3)
    campaign.tell(1, {"cost": "<3", "yield": (0.5, 0.1)})
    assert campaign.tell(1, {"purity": 0.95}).values["purity"] == Measurement(0.95)
    found = Campaign(BOX, tmp_path / "c.db").results()[0]
    assert list(found.values) == ["yield", "cost", "purity"]
    assert (found.value, found.values["cost"].censored) == (0.5, "below")
    assert campaign.tell(2, {"purity": 0.5}).value is None
    assert [t.id for t in campaign.best(3)] == [1]
    for bad in (1.0, {"colour": 1.0}, {}, {"yield": None}):
        with pytest.raises(InputError):
            campaign.tell(3, bad)
    with pytest.raises(InputError, match="already measured"):
        campaign.tell(1, {"purity": 0.5})
    campaign.amend(1, {"cost": 2.0}, "weighed again")
    assert {name: one.value for name, one in campaign.results()[0].values.items()} == {
        "yield": 0.5,
        "cost": 2.0,
        "purity": 0.95,
    }
    with pytest.raises(InputError, match="other objectives"):
        Campaign(BOX, tmp_path / "c.db", objectives=OBJECTIVES[:1])
    with pytest.raises(InputError, match="contradicts"):
        Campaign(BOX, tmp_path / "d.db", objectives=OBJECTIVES, maximize=False)
    for bad in ([{"maximize": True}], [{"name": "a", "maximize": "yes"}]):
        with pytest.raises(InputError):
            Campaign(BOX, tmp_path / "d.db", objectives=bad)
    assert not (tmp_path / "d.db").exists()


def test_replicates_are_asked_for_and_attached(campaign):
    again = campaign.repeat(2, 3)
    assert [t.x for t in again] == [campaign.results()[1].x] * 3
    assert [(t.id, t.batch, t.why) for t in again] == [(n, 2, "replicate of trial 2") for n in (6, 7, 8)]
    campaign.tell(6, 2.5)
    campaign.attach(again[0].x, 2.25)
    assert campaign.model(generator=0).x.shape[0] == 5
    with pytest.raises(InputError, match="no trial 99"):
        campaign.repeat(99)


def test_a_budget_shortens_and_ends_the_asking(tmp_path):
    campaign = Campaign(BOX, tmp_path / "c.db", maximize=True, seed=1, budget=10)
    campaign.attach([0.5, 0.5], 1.0)  # costs nothing here
    campaign.ask(4)
    assert campaign.spent == 4.0
    campaign.tell(2, 1.0, cost=2.0)
    campaign.fail(3, "broken", cost=1.0)
    assert campaign.spent == 2.0 + 1.0 + 2 * 1.5
    with pytest.warns(BudgetWarning, match="2 of 5 points"):
        assert len(campaign.ask(5)) == 2
    with pytest.raises(Exhausted, match="budget of 10 is spent"):
        campaign.ask(1)
    campaign.withdraw(4, "not made")
    assert len(campaign.ask(1)) == 1
    more = Campaign(BOX, tmp_path / "c.db", budget=20.0)
    assert (len(more.ask(2)), more.budget) == (2, 20.0)
    assert Campaign.open(tmp_path / "c.db").budget == 20.0
    assert [e.data for e in more.history() if e.what == "settings"] == [{"budget": 20.0}]
    for bad in (-1, "ten", float("nan"), True):
        with pytest.raises(InputError, match="budget"):
            Campaign(BOX, tmp_path / "d.db", maximize=True, budget=bad)
        with pytest.raises(InputError, match="cost"):
            campaign.tell(5, 1.0, cost=bad)


def test_everything_passes_through_an_export(campaign, tmp_path):
    campaign.amend(1, ">9", "saturated")
    campaign.fail(4, 'a "quoted"\nreason \u2717')
    campaign.set_info({"library": "/elsewhere"}, "moved")
    campaign.export(tmp_path / "c.jsonl")
    for _ in range(2):
        copy = Campaign.import_(tmp_path / "c.jsonl", tmp_path / "copy.db")
        assert (copy.results(), copy.history()) == (campaign.results(), campaign.history())
        assert copy.settings == campaign.settings
    assert copy.info == {"library": "/elsewhere"}
    campaign.tell(5, 5.0)
    campaign.export(tmp_path / "c.jsonl")
    assert Campaign.import_(tmp_path / "c.jsonl", tmp_path / "copy.db").results() == campaign.results()
    assert [t.x for t in copy.ask(2)] == [t.x for t in campaign.ask(2)]
    for line in (tmp_path / "c.jsonl").read_text().splitlines():
        json.loads(line)
    assert replay(campaign.history())[1] == campaign.results()


def test_an_export_that_was_cut_or_changed_is_refused(campaign, tmp_path):
    campaign.export(tmp_path / "c.jsonl")
    lines = (tmp_path / "c.jsonl").read_text().splitlines()
    other = Campaign(BOX, tmp_path / "other.db", maximize=True, seed=1)
    with pytest.raises(InputError, match="different campaigns"):
        Campaign.import_(tmp_path / "c.jsonl", tmp_path / "other.db")
    assert other.results() == []
    damaged = {
        "cut short": lines[:-1],
        "cut short or added": [*lines, lines[-1]],
        "changed": [*lines[:-1], lines[-1].replace("[3.0]", "[4.0]")],
        "line 3 is no JSON": [*lines[:2], lines[2][:20], *lines[3:]],
        "line 3 is no event": [*lines[:2], "{}", *lines[3:]],
        "event 2": [lines[0], lines[1], lines[3], lines[2], *lines[4:]],
        "no export": lines[1:],
        "version 9": [lines[0].replace('"version":1', '"version":9'), *lines[1:]],
    }
    for said, text in damaged.items():
        (tmp_path / "bad.jsonl").write_text("\n".join(text))
        with pytest.raises(DataFileError, match=said):
            Campaign.import_(tmp_path / "bad.jsonl", tmp_path / "new.db")
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "bad.jsonl", tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataFileError, match="cannot read"):
            Campaign.import_(path, tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_settings_are_changed_with_a_trace(campaign):
    campaign.set_info({"library": "a.csv", "id": None})
    campaign.set_info({"library": "b.csv"}, "moved to the server")
    assert Campaign.open(campaign.store).info == {"library": "b.csv", "id": None}
    assert campaign.history()[-1].reason == "moved to the server"
    for bad in ({"a": {1}}, {"a": float("nan")}):
        with pytest.raises(InputError):
            campaign.set_info(bad)
    with pytest.raises(InputError, match="no trial 77"):
        campaign.history(77)


@pytest.mark.parametrize("reason", ["\ud800", "a\0b"])
def test_a_reason_that_no_database_can_keep_is_refused(campaign, reason):
    before = campaign.history()
    for change in (campaign.fail, campaign.withdraw, lambda trial, why: campaign.amend(1, 2.0, why)):
        with pytest.raises(InputError):
            change(4, reason)
    assert campaign.history() == before

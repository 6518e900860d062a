"""A rule of the user's own in a campaign and a screening, and what a campaign remembers of its rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch

from sggp.bayesopt import Box, Campaign, Pool, Rule, Storage, fit_surrogate
from sggp.bayesopt.outcomes import Objective
from sggp.bayesopt.rules import DEFAULT_RULE, RULES, UpperConfidenceBound, default_rule, make_rule
from sggp.bayesopt.screening import screen
from sggp.bayesopt.storage import SQLiteStorage
from sggp.errors import InputError

COUNTS = torch.randint(0, 3, (30, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
VALUES = COUNTS.sum(1).double()


@dataclass(frozen=True)
class Mean:
    posterior: Any
    num_samples: int
    calls: list

    def __call__(self, points):
        self.calls.append(len(points))
        return self.posterior.mean(points).expand(self.num_samples, -1)


class Greedy(Rule):
    """The rows of the largest posterior means."""

    num_samples = 1
    calls: list = []

    def functions(self, posterior, generator):
        return Mean(posterior, self.batch_size, self.calls)


def test_a_rule_of_ones_own_chooses_in_a_campaign(tmp_path):
    campaign = Campaign(Pool(COUNTS), tmp_path / "c.db", maximize=True, seed=1, num_initial=8, rule=Greedy)
    for trial in campaign.ask(8):
        campaign.tell(trial.id, float(VALUES[trial.index]))
    taken = {trial.index for trial in campaign.results()}
    Greedy.calls.clear()
    chosen = [trial.index for trial in campaign.ask(3)]
    assert sum(Greedy.calls) == 30
    assert not taken & set(chosen)
    with pytest.raises(InputError, match="rule of its own"):
        Campaign(Pool(COUNTS), tmp_path / "c.db")
    assert Campaign(Pool(COUNTS), tmp_path / "c.db", rule=Greedy).ask(1)[0].index not in chosen


def test_a_greedy_rule_takes_the_largest_means():
    posterior = fit_surrogate(COUNTS[:8], VALUES[:8], num_samples=1, generator=0).posterior
    rows = Greedy(Pool(COUNTS), 4).suggest(posterior, exclude=range(8), generator=0)
    mean = posterior.mean(COUNTS)
    rest = sorted(set(range(8, 30)) - set(rows.tolist()))
    assert len(rest) == 18
    assert mean[rows].min() >= mean[rest].max() - 1e-9 * mean.abs().max()


def test_a_screening_takes_any_rule():
    done = screen(COUNTS, VALUES, range(8), rounds=2, batch_size=4, generator=0, rule=partial(Greedy))
    assert len({row for step in done.steps for row in step.rows}) == 16


class RuleUnknown(SQLiteStorage):
    """A file of the first version, which kept no rule."""

    def meta(self):
        return {name: value for name, value in super().meta().items() if name != "rule"}


def test_files_without_a_rule_mean_thompson_sampling_whatever_the_default_is(tmp_path):
    batches = {}
    for name, storage, rule in (
        ("old", RuleUnknown, None),
        ("thompson", SQLiteStorage, "thompson"),
        ("default", SQLiteStorage, None),
    ):
        store = storage(tmp_path / f"{name}.db")
        campaign = Campaign(Pool(COUNTS), store, maximize=True, seed=1, num_initial=4, rule=rule)
        for trial in campaign.ask(4):
            campaign.tell(trial.id, float(VALUES[trial.index]))
        batches[name] = [trial.index for trial in campaign.ask(4)]
    assert batches["old"] == batches["thompson"] != batches["default"]


def test_the_default_of_a_new_file_is_stored(tmp_path):
    for name, space in (("pool", Pool(COUNTS)), ("box", Box([[0.0, 1.0]]))):
        campaign = Campaign(space, tmp_path / f"{name}.db", maximize=True, seed=1)
        assert campaign.store.meta()["rule"] == default_rule(space)
    assert default_rule(Pool(COUNTS)) == DEFAULT_RULE
    assert default_rule(Box([[0.0, 1.0]])) == "thompson"
    assert type(make_rule(DEFAULT_RULE, Pool(COUNTS), 2)) is UpperConfidenceBound


def test_every_rule_of_the_table_fills_a_batch_of_distinct_places(tmp_path):
    for name in RULES:
        wanted = [Objective("low", False)]
        if name == "hypervolume":
            wanted.append(Objective("high", True))
        campaign = Campaign(
            Pool(COUNTS), tmp_path / f"{name}.db", objectives=wanted, seed=2, num_initial=5, rule=name
        )
        for trial in campaign.ask(5):
            value = float(VALUES[trial.index])
            campaign.tell(trial.id, {objective.name: value for objective in wanted})
        rows = [trial.index for trial in campaign.ask(6)]
        assert len({trial.index for trial in campaign.results()}) == 11
        assert len(rows) == 6
        assert Campaign(Pool(COUNTS), tmp_path / f"{name}.db").store.meta()["rule"] == name


def test_a_storage_can_be_passed_instead_of_a_path(tmp_path):
    class Counted(SQLiteStorage):
        writes = 0

        def append(self, drafts, **options):
            self.writes += 1
            return super().append(drafts, **options)

    storage = Counted(tmp_path / "c.db")
    assert isinstance(storage, Storage)
    campaign = Campaign(Box([[0.0, 1.0]]), storage, maximize=True, seed=1)
    campaign.tell(campaign.ask()[0].id, 1.0)
    assert storage.writes == 2
    assert [trial.value for trial in Campaign(Box([[0.0, 1.0]]), tmp_path / "c.db").results()] == [1.0]

"""Campaigns that evaluate by themselves: here, in threads and in processes, with errors, limits and interruptions."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch

from sggp.bayesopt import Box, Campaign, Pool
from sggp.errors import DtypeError, InputError

BOX = Box([[0.0, 1.0], [-2.0, 2.0]])


def height(trial) -> float:
    return -((trial.x[0] - 0.7) ** 2) - (trial.x[1] - 0.5) ** 2


@pytest.fixture
def campaign(tmp_path) -> Campaign:
    return Campaign(BOX, tmp_path / "c.db", maximize=True, seed=1, num_initial=50)


@pytest.mark.parametrize("kind", [None, ThreadPoolExecutor, ProcessPoolExecutor])
def test_every_executor_measures_the_same(campaign, kind):
    executor = None if kind is None else kind(2)
    ended = campaign.run(height, executor=executor, budget=7, batch_size=2)
    if executor is not None:
        executor.shutdown()
    assert len(ended) == 7
    assert campaign.pending == []
    assert [t.value for t in campaign.results()] == [height(t) for t in campaign.results()]
    whole = Campaign(BOX, campaign.store.path.with_name("d.db"), maximize=True, seed=1, num_initial=50)
    assert {t.x for t in campaign.results()} == {t.x for t in whole.ask(7)}


def test_a_new_point_is_asked_for_as_soon_as_one_ends(campaign):
    """The first evaluation goes on until the fourth has begun: batches of two would wait for each other for ever."""
    fourth = threading.Event()

    def objective(trial):
        if trial.id == 4:
            fourth.set()
        if trial.id == 1 and not fourth.wait(60):
            raise TimeoutError
        return height(trial)

    with ThreadPoolExecutor(2) as pool:
        ended = campaign.run(objective, executor=pool, budget=4, batch_size=2)
    assert {t.state for t in ended} == {"measured"}
    assert [t.batch for t in campaign.results()] == [1, 1, 2, 3]


def test_errors_are_tried_again_and_then_stored(campaign):
    tries: list[int] = []

    def objective(trial):
        tries.append(trial.id)
        if trial.id == 2:
            raise ValueError("wet\0 \ud800")
        if trial.id == 3:
            return float("nan")
        if trial.id == 4 and tries.count(4) < 3:
            raise OSError("busy")
        return (1.0, 0.1) if trial.id == 1 else ">5"

    campaign.run(objective, budget=5, batch_size=5, retries=2)
    states = [t.state for t in campaign.results()]
    assert states == ["measured", "failed", "failed", "measured", "measured"]
    assert [tries.count(n) for n in range(1, 6)] == [1, 3, 1, 3, 1]
    second, third = campaign.results()[1:3]
    assert second.reason.startswith("ValueError: wet")
    assert second.reason.endswith("(3 tries)")
    assert "gave no measurement" in third.reason
    assert campaign.results()[0].measurement.noise_std == 0.1
    assert campaign.results()[4].measurement.censored == "above"


def test_an_evaluation_that_takes_too_long_is_failed(campaign):
    release = threading.Event()

    def objective(trial):
        if trial.id == 1:
            release.wait(60)
        return height(trial)

    pool = ThreadPoolExecutor(2)
    ended = campaign.run(objective, executor=pool, budget=3, batch_size=2, timeout=0.2)
    release.set()
    pool.shutdown()
    assert {t.id: t.state for t in ended} == {1: "failed", 2: "measured", 3: "measured"}
    assert "no result after 0.2 s" in campaign.results()[0].reason
    assert campaign.results()[0].value is None


def test_an_interruption_leaves_trials_to_be_resumed(campaign):
    def objective(trial):
        if trial.id == 3 and len(campaign.pending) == 2:
            raise KeyboardInterrupt
        return height(trial)

    with pytest.raises(KeyboardInterrupt):
        campaign.run(objective, budget=4, batch_size=4)
    assert [t.id for t in campaign.pending] == [3, 4]
    resumed = Campaign.open(campaign.store.path)
    assert [t.id for t in resumed.run(height, budget=3)] == [3, 4, 5]


class Dying(Executor):
    """Its workers die at the third evaluation."""

    def __init__(self, error: BaseException | None) -> None:
        self.error, self.count = error, 0

    def submit(self, function, *arguments, **named):
        future: Future = Future()
        self.count += 1
        if self.count < 3:
            future.set_result(function(*arguments))
        elif self.error is None:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(self.error)
        return future


def test_workers_that_die_fail_no_trial(campaign):
    from concurrent.futures import BrokenExecutor

    with pytest.raises(BrokenExecutor, match="killed"):
        campaign.run(height, executor=Dying(BrokenExecutor("killed")), budget=6, batch_size=1)
    assert [t.state for t in campaign.results()] == ["measured", "measured", "pending"]
    with pytest.raises(InputError, match="stay pending"):
        campaign.run(height, executor=Dying(None), budget=6, batch_size=2)
    assert [t.state for t in campaign.results()][:3] == ["measured"] * 3
    assert "failed" not in {t.state for t in campaign.results()}


def test_it_ends_with_the_pool_or_the_budget(tmp_path):
    pool = Campaign(Pool(torch.arange(6)[:, None]), tmp_path / "p.db", maximize=True, seed=1, num_initial=50)
    assert len(pool.run(lambda trial: trial.index, budget=10, batch_size=4)) == 6
    assert pool.run(lambda trial: trial.index, budget=10) == []
    paid = Campaign(BOX, tmp_path / "b.db", maximize=True, seed=1, num_initial=50, budget=3)
    with ThreadPoolExecutor(2) as executor:
        assert len(paid.run(height, executor=executor, budget=10, batch_size=2)) == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"budget": 1.5},
        {"budget": -1},
        {"batch_size": 0},
        {"retries": -1},
        {"timeout": 1.0},
        {"timeout": 0.0, "executor": ThreadPoolExecutor()},
        {"executor": 3},
        {"objective": "height"},
        {"objective": lambda trial: 1.0, "executor": ProcessPoolExecutor(1)},
    ],
)
def test_what_cannot_run_asks_for_nothing(campaign, bad):
    with pytest.raises((InputError, DtypeError)):
        campaign.run(**{"objective": height, "budget": 1, **bad})
    assert campaign.results() == []

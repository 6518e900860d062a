"""What ends an evaluation, or all of them, from outside: signals, other processes, workers that are lost."""

from __future__ import annotations

import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import pytest

from sggp.bayesopt import Box, Campaign, Objective
from sggp.errors import InputError, NotSaved

BOX = Box([[0.0, 1.0], [-2.0, 2.0]])


@pytest.fixture
def campaign(tmp_path) -> Campaign:
    return Campaign(BOX, tmp_path / "c.db", maximize=True, seed=1, num_initial=50)


def states(campaign: Campaign) -> list[str]:
    return [trial.state for trial in campaign.results()]


class Prefetching(ThreadPoolExecutor):
    """Calls every evaluation that it was handed running, as process pools do with some."""

    def submit(self, *given, **named):
        future = super().submit(*given, **named)
        future.running = lambda: not future.done()
        return future


def test_the_limit_does_not_count_the_wait_for_a_worker(campaign):
    def objective(trial):
        time.sleep(0.2)
        return 1.0

    with Prefetching(1) as executor:
        campaign.run(objective, executor=executor, budget=4, batch_size=4, timeout=0.6)
    assert states(campaign) == ["measured"] * 4


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_within_a_worker_fails_no_trial(campaign, stop):
    def objective(trial):
        if trial.id == 2:
            raise stop
        return 1.0

    with ThreadPoolExecutor(1) as executor, pytest.raises(stop):
        campaign.run(objective, executor=executor, budget=3, retries=1)
    assert states(campaign) == ["measured", "pending"]


class Losing(Executor):
    """Loses its first evaluation, and stops the run at the submission `stop`."""

    def __init__(self, stop: int) -> None:
        self.stop, self.count = stop, 0

    def submit(self, function, *given, **named):
        self.count += 1
        if self.count == self.stop:
            raise KeyboardInterrupt
        future: Future = Future()
        if self.count == 1:
            future.set_exception(BrokenExecutor("killed"))
        else:
            future.set_result(function(*given))
        return future


@pytest.mark.parametrize(("stop", "error"), [(99, BrokenExecutor), (8, KeyboardInterrupt)])
def test_what_had_ended_beside_a_lost_worker_is_told(campaign, stop, error):
    with pytest.raises(error):
        campaign.run(lambda trial: float(trial.id), executor=Losing(stop), budget=8, batch_size=8)
    ended = min(stop, 9) - 1
    assert states(campaign) == ["pending"] + ["measured"] * (ended - 1) + ["pending"] * (8 - ended)
    assert [t.value for t in campaign.results()][1:ended] == [float(n) for n in range(2, ended + 1)]


def test_a_trial_that_was_ended_elsewhere_ends_here_too(campaign):
    def objective(trial):
        if trial.id == 1:
            campaign.tell(1, 5.0)
            campaign.withdraw(3, "the plate broke")
        if trial.id == 2:
            campaign.fail(2, "spilt")
            raise ValueError("dry")
        return 1.0

    with pytest.warns(NotSaved, match="trial . is (measured|failed)") as said:
        ended = campaign.run(objective, budget=4, batch_size=4)
    assert [(t.id, t.state) for t in ended[:2]] == [(1, "measured"), (2, "failed")]
    assert states(campaign)[:4] == ["measured", "failed", "withdrawn", "measured"]
    assert campaign.results()[0].value == 5.0
    assert campaign.results()[1].reason == "spilt"
    assert "(1.0)" in str(said[0].message)
    assert len(ended) == 4  # the withdrawn one was not evaluated, and is none of the budget's


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_an_error_without_words_fails_its_trial(campaign):
    def objective(trial):
        raise Wordless

    campaign.run(objective, budget=1)
    assert campaign.results()[0].reason.startswith("Wordless")


def test_outcomes_that_cannot_be_told_are_kept_in_the_reason(tmp_path):
    wanted = [Objective("yield", maximize=True), Objective("cost", maximize=False)]
    campaign = Campaign(BOX, tmp_path / "c.db", objectives=wanted, seed=1)
    campaign.run(lambda trial: {"yield": 71.25, "costs": 3.5}, budget=1)
    reason = campaign.results()[0].reason
    assert "among yield, cost; got costs" in reason
    assert "71.25" in reason
    assert "3.5" in reason


def test_an_executor_that_was_shut_down_is_named(campaign):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(InputError, match=r"takes no work.*trial 1 stays pending"):
        campaign.run(lambda trial: 1.0, executor=executor, budget=1)
    assert states(campaign) == ["pending"]

"""Several runs of one campaign at once: no trial is evaluated twice, and what a dead run left is taken up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from sggp.bayesopt import Box, Campaign

BOX = Box([[0.0, 1.0]])
LOCKS = pytest.mark.skipif(sys.platform == "win32", reason="there are no file locks of this kind on Windows")


def opened(path: Path) -> Campaign:
    return Campaign(BOX, path, maximize=True, seed=1, num_initial=50)


def evaluate_for_ever(path: Path, begun: multiprocessing.synchronize.Event) -> None:
    """A run in a process of its own, in the middle of its second trial."""
    tries: list[int] = []

    def objective(trial) -> float:
        tries.append(trial.id)
        if len(tries) > 1:
            begun.set()
            signal.pause()
        return 0.0

    opened(path).run(objective, budget=3, batch_size=2)


@LOCKS
def test_runs_in_threads_share_the_work(tmp_path):
    path, evaluated = tmp_path / "c.db", Counter[int]()
    opened(path).ask(1)  # left by somebody: the first run takes it up
    begun, go_on = threading.Event(), threading.Event()

    def slow(trial) -> float:
        evaluated[trial.id] += 1
        begun.set()
        assert go_on.wait(60)
        return float(trial.x[0])

    def quick(trial) -> float:
        evaluated[trial.id] += 1
        return float(trial.x[0])

    first = threading.Thread(target=lambda: opened(path).run(slow, budget=2, batch_size=2))
    first.start()
    assert begun.wait(60)
    ended = opened(path).run(quick, budget=3)
    go_on.set()
    first.join()
    assert [trial.id for trial in ended] == sorted(trial.id for trial in ended)
    assert 1 not in {trial.id for trial in ended}
    assert set(evaluated.values()) == {1}
    assert [trial.state for trial in opened(path).results()] == ["measured"] * 5
    assert not list(tmp_path.glob("*.running"))


@LOCKS
def test_a_run_leaves_what_another_process_evaluates_and_takes_up_what_a_dead_one_left(tmp_path):
    path = tmp_path / "c.db"
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    other = context.Process(target=evaluate_for_ever, args=(path, begun))
    other.start()
    try:
        assert begun.wait(120)
        (waiting,) = opened(path).pending
        ended = opened(path).run(lambda trial: 1.0, budget=2)
        assert waiting.id not in {trial.id for trial in ended}
        assert [trial.id for trial in opened(path).pending] == [waiting.id]
        assert list(tmp_path.glob("*.running"))
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    (again,) = opened(path).run(lambda trial: 2.0, budget=1)
    assert again.id == waiting.id
    assert not list(tmp_path.glob("*.running"))


@LOCKS
def test_a_folder_that_takes_no_lock_keeps_nobody_from_running(tmp_path, monkeypatch):
    campaign = opened(tmp_path / "c.db")
    (left,) = campaign.ask(1)

    def refused(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("sggp.bayesopt.storage.running.fcntl.lockf", refused)
    assert [trial.id for trial in campaign.run(lambda trial: 0.0, budget=2)] == [left.id, 2]
    assert not list(tmp_path.glob("*.running"))

"""Several runs of one campaign at once: no trial is evaluated twice, and what a dead run left is taken up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from sggp.bayesopt import Box, Campaign
from sggp.bayesopt.storage import running
from tests.scripts import Scripts

BOX = Box([[0.0, 1.0]])
# a file that a URL names has the lock of the file
KINDS_OF_LOCK = pytest.mark.parametrize("place", ["file", "postgres"], indirect=True)
LOCKS = pytest.mark.skipif(sys.platform == "win32", reason="there are no file locks of this kind on Windows")


def opened(place: Path | str) -> Campaign:
    return Campaign(BOX, place, maximize=True, seed=1, num_initial=50)


def evaluate_for_ever(place: Path | str, begun: Path) -> None:
    """A run in a process of its own, in the middle of its second trial."""
    tries: list[int] = []

    def objective(trial) -> float:
        tries.append(trial.id)
        if len(tries) > 1:
            begun.write_text("\n")
            signal.pause()
        return 0.0

    opened(place).run(objective, budget=3, batch_size=2)


def wait_in_worker(begun: Path, trial) -> float:
    begun.write_text(f"{os.getpid()}\n")
    signal.pause()
    return 0.0


def evaluate_in_a_worker(place: Path | str, begun: Path) -> None:
    """A run whose only trial is with a worker that outlives it."""
    workers = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    opened(place).run(partial(wait_in_worker, begun), budget=1, executor=workers)


def begin(name: str, place: str, folder: str) -> None:
    """Say which process this is, and be the function of this name."""
    Path(folder, "process").write_text(f"{os.getpid()}\n")
    globals()[name](place, Path(folder, "begun"))


BEGIN = "import sys; from tests.bayesopt.test_campaign_runs import begin; begin(*sys.argv[1:])"


class Other:
    """A function of this file in a process of its own, once it has begun; and what it wrote then."""

    def __init__(
        self, scripts: Scripts, function: Callable[..., None], place: Path | str, folder: Path
    ) -> None:
        words = ("-c", BEGIN, function.__name__, place, folder)
        self.thread = threading.Thread(target=scripts.run, args=words)
        self.thread.start()
        self.process, self.wrote = int(written(folder / "process")), written(folder / "begun")

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        self.thread.join()


def written(path: Path) -> str:
    """The line that another process writes into a file, as soon as it is there."""
    for _ in range(12_000):
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.01)
    raise TimeoutError(path)


@LOCKS
def test_runs_in_threads_share_the_work(place, tmp_path):
    evaluated = Counter[int]()
    opened(place).ask(1)  # left by somebody: the first run takes it up
    begun, go_on = threading.Event(), threading.Event()

    def slow(trial) -> float:
        evaluated[trial.id] += 1
        begun.set()
        assert go_on.wait(60)
        return float(trial.x[0])

    def quick(trial) -> float:
        evaluated[trial.id] += 1
        return float(trial.x[0])

    first = threading.Thread(target=lambda: opened(place).run(slow, budget=2, batch_size=2))
    first.start()
    assert begun.wait(60)
    ended = opened(place).run(quick, budget=3)
    go_on.set()
    first.join()
    assert [trial.id for trial in ended] == sorted(trial.id for trial in ended)
    assert 1 not in {trial.id for trial in ended}
    assert set(evaluated.values()) == {1}
    assert [trial.state for trial in opened(place).results()] == ["measured"] * 5
    assert not list(tmp_path.glob("*.running"))


@LOCKS
@KINDS_OF_LOCK
def test_a_run_leaves_what_another_process_evaluates_and_takes_up_what_a_dead_one_left(
    place, scripts, tmp_path
):
    other = Other(scripts, evaluate_for_ever, place, tmp_path)
    try:
        (waiting,) = opened(place).pending
        ended = opened(place).run(lambda trial: 1.0, budget=2)
        assert waiting.id not in {trial.id for trial in ended}
        assert [trial.id for trial in opened(place).pending] == [waiting.id]
    finally:
        other.kill()
    (again,) = opened(place).run(lambda trial: 2.0, budget=1)
    assert again.id == waiting.id


@LOCKS
@KINDS_OF_LOCK
def test_the_workers_of_a_killed_run_hold_nothing(place, scripts, tmp_path):
    other = Other(scripts, evaluate_in_a_worker, place, tmp_path)
    worker = int(other.wrote)
    try:
        assert opened(place).run(lambda trial: 1.0, budget=1)[0].id == 2
        other.kill()
        os.kill(worker, 0)  # it lives
        assert opened(place).run(lambda trial: 2.0, budget=1)[0].id == 1
    finally:
        os.kill(worker, signal.SIGKILL)


@LOCKS
@pytest.mark.parametrize("links", ["folder", "file"])
def test_a_file_with_two_names_is_one_campaign(tmp_path, links):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "c.db"
    opened(path).ask(1)
    if links == "folder":
        (tmp_path / "link").symlink_to(tmp_path / "data")
        other = tmp_path / "link" / "c.db"
    else:
        other = tmp_path / "other.db"
        other.symlink_to(path)

    def objective(trial) -> float:
        if trial.id == 1:
            (ended,) = opened(other).run(objective, budget=1)
            assert ended.id == 2
        return 0.0

    assert [trial.id for trial in opened(path).run(objective, budget=1)] == [1]
    assert [trial.state for trial in opened(path).results()] == ["measured"] * 2
    assert not list(tmp_path.rglob("*.running"))


@LOCKS
def test_a_folder_that_takes_no_lock_keeps_nobody_from_running(tmp_path, monkeypatch):
    campaign = opened(tmp_path / "c.db")
    (left,) = campaign.ask(1)

    def refused(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("sggp.bayesopt.storage.running.fcntl.lockf", refused)
    assert [trial.id for trial in campaign.run(lambda trial: 0.0, budget=2)] == [left.id, 2]
    assert not list(tmp_path.glob("*.running"))


@LOCKS
def test_a_run_that_is_stopped_while_it_waits_leaves_others_their_turn(tmp_path, monkeypatch):
    """In this process they wait for one another first."""
    campaign = opened(tmp_path / "c.db")

    def stopped(path: Path) -> tuple[int, bool]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running, "_locked", stopped)
        with pytest.raises(KeyboardInterrupt):
            campaign.run(lambda trial: 0.0, budget=1)
    assert not running._HERE.starting.locked()
    assert len(campaign.run(lambda trial: 0.0, budget=1)) == 1

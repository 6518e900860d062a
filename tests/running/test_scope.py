"""Deadlines, stops and listeners: who hears what, and what ends when."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sggp.running import (
    OutOfTime,
    Step,
    Stop,
    deadline,
    go_on,
    in_time,
    limited,
    listening,
    patient,
    scope,
    share_of_time,
    stop_asked,
    stop_on_signals,
    stoppable,
    tell,
    time_is_up,
    within_time,
)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(scope.time, "perf_counter", lambda: now[0])
    return now


def test_a_deadline_ends_what_asks_and_the_earliest_counts(clock):
    go_on()
    with deadline(110.0):
        with deadline(120.0):
            go_on()
            clock[0] = 110.0
            with pytest.raises(OutOfTime, match="max_seconds"):
                go_on()
            with patient():
                go_on()
                assert not limited()
        assert limited()
    go_on()


def test_what_would_end_too_late_is_not_begun(clock):
    with deadline(110.0):
        go_on(9.0)
        with pytest.raises(OutOfTime):
            go_on(11.0)


def test_what_gets_better_ends_when_its_share_of_the_time_is_up(clock):
    """And what is of no use before its end is given up."""
    assert not time_is_up()
    with in_time(10.0, "fit") as cut:
        with share_of_time(0.8, "kernel"):
            clock[0] = 107.9
            assert not time_is_up()
            clock[0] = 108.0
            assert time_is_up()
            assert time_is_up()
        assert not time_is_up()
        with within_time():
            go_on()
            clock[0] = 110.0
            with pytest.raises(OutOfTime):
                go_on()
        assert time_is_up()
        with share_of_time(0.5, "noise"):
            assert time_is_up()  # there is nothing left to share
    assert cut == ["kernel", "fit", "noise"]
    with in_time(None, "fit") as cut, share_of_time(0.5, "kernel"), within_time():
        clock[0] = 1e9
        assert not time_is_up()
        go_on()
    assert cut == []


def test_each_call_of_a_function_has_its_share_of_what_is_left(clock):
    @share_of_time(0.5, "a call")
    def work(seconds):
        clock[0] += seconds
        return time_is_up()

    with in_time(8.0, "fit"):
        assert not work(3.9)
        assert work(2.1)  # of 4.1


def test_a_stop_ends_what_asks_only_where_it_is_caught():
    stop = Stop()
    with stoppable(stop):
        stop.ask("the user")
        stop.ask("someone else")
        assert stop_asked() == "the user"
        go_on()
        with deadline(None), pytest.raises(OutOfTime, match="the user"):
            go_on()
    assert stop_asked() is None


def test_processes_that_work_together_decide_as_one(clock):
    """Each asks as often as the others, whatever its own clock says."""
    asked = []

    def agreed(own):
        asked.append(own)
        return len(asked) == 3

    with stoppable(Stop()), deadline(110.0, agreed):
        go_on()
        with pytest.raises(OutOfTime, match="another process"):
            go_on()
    assert asked == [False, False, False]


def test_listeners_of_all_blocks_hear_and_other_threads_do_not():
    outer, inner = [], []
    with listening(outer.append):
        with listening(inner.append):
            tell("solve", 3, residual=0.5)
        thread = threading.Thread(target=tell, args=("solve", 4))
        thread.start()
        thread.join()
        tell("noise", note="done")
    tell("solve", 5)
    assert outer == [Step("solve", 3, None, {"residual": 0.5}), Step("noise", note="done")]
    assert inner == outer[:1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts_as_before(number):
    came = []
    before = signal.signal(number, lambda *_: came.append(number))
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), number)
            assert (stop.reason, stop.signal, came) == (signal.Signals(number).name, number, [])
            assert stop_asked() == stop.reason
            os.kill(os.getpid(), number)
            assert came == [number]
        os.kill(os.getpid(), number)
        assert came == [number, number]
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_asks_nothing():
    """As Ctrl-C is by what a script runs in its background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert stop.reason is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone():
    handlers = []

    def work():
        with stop_on_signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]

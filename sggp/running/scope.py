"""Long computations: what they tell while they run, and how one ends before its time.

A computation `tell`s of its steps, and who `listens` to it hears. Between steps it looks at `stop_asked()`; inside a
set-up, which no callback sees, it calls `go_on()`, which raises `OutOfTime` once a deadline has passed or a stop was
asked for. What gets better step by step asks `time_is_up()` instead, and keeps the best it has. All of it holds inside
`with` blocks, in the thread that entered them: nothing is set for the process, and where nobody listens and nothing
limits, a call costs a microsecond.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from sggp.parallel import current

__all__ = [
    "Listener",
    "OutOfTime",
    "Step",
    "Stop",
    "apart",
    "deadline",
    "go_on",
    "heard",
    "in_time",
    "limited",
    "listening",
    "may_stop",
    "patient",
    "share_of_time",
    "steps",
    "stop_asked",
    "stop_on_signals",
    "stoppable",
    "tell",
    "time_is_up",
    "within_time",
]


@dataclass(frozen=True)
class Step:
    """One step of a long computation.

    Attributes:
        phase: "hyperparameters", "kernel", "noise", "preconditioner", "solve" or "predictions".
        done: how much of the phase is done, in its own unit. of: the whole of it; None where nobody knows.
        values: numbers by name: of a solve `epochs`, `residual` (the column farthest from its tolerance),
            `tolerance` (of that column), `open_columns`; of hyperparameters `value` and `gradient_norm`.
        note: a sentence instead of a step, at the end of something; "" for none.
    """

    phase: str
    done: float = 0.0
    of: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


Listener = Callable[[Step], object]


class Stop:
    """A request to stop, asked by a signal or by anyone who holds it, from any thread.

    Attributes:
        reason: who asked, as in "SIGTERM"; None while nobody has. signal: the signal's number, if it was one.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.signal: int | None = None

    def ask(self, reason: str = "a request") -> None:
        """Ask to stop at the next step."""
        self.reason = self.reason or reason


class OutOfTime(Exception):
    """A set-up that is not finished and has to end; who set the `deadline` catches it.

    Attributes:
        found: what there is of it that can be used, or None. stopped: whether a stop was asked for.
    """

    def __init__(self, why: str, found: Any = None, *, stopped: bool = False) -> None:
        super().__init__(why)
        self.found, self.stopped = found, stopped


@dataclass(frozen=True)
class _Scope:
    listeners: tuple[Listener, ...] = ()
    stops: tuple[Stop, ...] = ()
    until: float | None = None  # time.perf_counter() of the earliest deadline
    raises: bool = False  # whether somebody catches OutOfTime
    agreed: Callable[[bool], bool] = bool  # what several processes that work together decide
    best_until: float = math.inf  # time.perf_counter() from which on what gets better step by step ends
    doing: str = ""  # the name of what goes on
    cut: list[str] = field(default_factory=list)  # what of it ended so


_NOTHING = _Scope()
_SCOPE: ContextVar[_Scope] = ContextVar("sggp_running", default=_NOTHING)


@contextmanager
def _within(scope: _Scope) -> Iterator[None]:
    token = _SCOPE.set(scope)
    try:
        yield
    finally:
        _SCOPE.reset(token)


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Call each listener with every `Step` told in the block; those of outer blocks hear them as well."""
    scope = _SCOPE.get()
    with _within(replace(scope, listeners=(*scope.listeners, *listeners))):
        yield


def tell(phase: str, done: float = 0.0, of: float | None = None, *, note: str = "", **values: float) -> None:
    """Tell whoever listens of a step."""
    for listener in _SCOPE.get().listeners:
        listener(Step(phase, done, of, values, note))


def steps(phase: str, parts: Sequence[Any]) -> Iterator[Any]:
    """The parts (tensors of rows) one after another; tells of the rows before each one, and at the end."""
    done, of = 0, sum(len(part) for part in parts)
    for part in parts:
        tell(phase, done, of)
        yield part
        done += len(part)
    tell(phase, done, of)


def heard() -> bool:
    """Whether anybody listens: for what costs something to tell."""
    return bool(_SCOPE.get().listeners)


# ending early ---------------------------------------------------------------------------------------------------------


@contextmanager
def deadline(until: float | None, agreed: Callable[[bool], bool] = bool) -> Iterator[None]:
    """In the block `go_on` raises `OutOfTime` from `until` on, as `time.perf_counter` counts, or once a stop is asked.

    None sets no time; deadlines of outer blocks hold as well. `agreed` makes one decision of those of several processes
    that work together, whose clocks and signals differ: each of them has to call `go_on` as often as the others.
    """
    scope = _SCOPE.get()
    times = [t for t in (scope.until, until) if t is not None]
    with _within(replace(scope, until=min(times, default=None), raises=True, agreed=agreed)):
        yield


def go_on(seconds: float = 0.0) -> None:
    """Raise `OutOfTime` if the computation has to end, or what comes next, of so many `seconds`, would be too late."""
    scope = _SCOPE.get()
    if not scope.raises:
        return
    if scope.stops and scope.agreed(stop_asked() is not None):
        raise OutOfTime(f"stopped by {stop_asked() or 'another process'}", stopped=True)
    if scope.until is not None and scope.agreed(time.perf_counter() + seconds >= scope.until):
        raise OutOfTime("max_seconds leaves no time for it")


@contextmanager
def patient() -> Iterator[None]:
    """In the block `go_on` does not raise: what is made there has to be finished."""
    with _within(replace(_SCOPE.get(), raises=False)):
        yield


def limited() -> bool:
    """Whether a deadline is set: for what costs something to forecast."""
    scope = _SCOPE.get()
    return scope.raises and scope.until is not None


@contextmanager
def in_time(seconds: float | None, doing: str) -> Iterator[list[str]]:
    """What gets better step by step in the block ends after so many seconds with the best it has; None sets no limit.

    Args:
        doing: the name of what goes on in the block, where no `share_of_time` has another one.

    Yields:
        The names of what was cut short, each once, in order; empty where there was time for everything.
    """
    cut: list[str] = []
    until = math.inf if seconds is None else time.perf_counter() + seconds
    with _within(replace(_SCOPE.get(), best_until=until, doing=doing, cut=cut)):
        yield cut


@contextmanager
def share_of_time(share: float, doing: str) -> Iterator[None]:
    """The block has this share of the seconds that `in_time` leaves; so has each call of a function it decorates.

    Args:
        doing: the name of what goes on in it.
    """
    scope, now = _SCOPE.get(), time.perf_counter()
    with _within(replace(scope, best_until=now + share * (scope.best_until - now), doing=doing)):
        yield


def time_is_up() -> bool:
    """Whether the seconds of `in_time` are over: what asks then ends with the best it has, and counts as cut short.

    On several ranks, whose clocks differ, it is one decision, and each of them has to ask as often as the others.
    """
    scope = _SCOPE.get()
    if scope.best_until == math.inf or not current().agreed(time.perf_counter() >= scope.best_until):
        return False
    if scope.doing not in scope.cut:
        scope.cut.append(scope.doing)
    return True


@contextmanager
def within_time() -> Iterator[None]:
    """In the block `go_on` raises `OutOfTime` once `time_is_up`: for what is of no use before its end."""
    until = _SCOPE.get().best_until
    with deadline(None if until == math.inf else until, current().agreed):
        yield


@contextmanager
def apart() -> Iterator[None]:
    """In the block nobody listens, limits or has asked to stop: it belongs to what is finished."""
    with _within(_NOTHING):
        yield


def stop_asked() -> str | None:
    """Who has asked to stop, or None."""
    return next((stop.reason for stop in _SCOPE.get().stops if stop.reason is not None), None)


def may_stop() -> bool:
    """Whether anybody could ask to stop."""
    return bool(_SCOPE.get().stops)


@contextmanager
def stoppable(stop: Stop) -> Iterator[Stop]:
    """Computations in the block end at the next step once `stop.ask()` was called, from any thread."""
    scope = _SCOPE.get()
    with _within(replace(scope, stops=(*scope.stops, stop))):
        yield stop


@contextmanager
def stop_on_signals(*, at_once: bool = False) -> Iterator[Stop]:
    """SIGTERM and Ctrl-C in the block ask to stop at the next step, with the best that was found until then.

    A solve then ends as if its budget were spent, and writes its checkpoint; the learning of hyperparameters ends with
    the values it has. A second signal acts as it did before the block: Ctrl-C raises KeyboardInterrupt.

    Args:
        at_once: a second signal ends the process there and then, in the middle of a product as well.

    Yields:
        The `Stop`: its `reason` and `signal` tell afterwards whether one came.

    In other threads than the main one signals cannot be caught, and the block changes nothing. Nor does a signal that
    the process ignores, as a job in the background of a script does Ctrl-C.

    Example:
        >>> from sggp.running import stop_on_signals
        >>> with stop_on_signals() as stop:
        ...     pass  # model.fit(X, y)
        >>> stop.reason is None
        True
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def heard_signal(number: int, frame: FrameType | None) -> None:
        stop.signal = number if stop.signal is None else stop.signal
        stop.ask(signal.Signals(number).name)
        for other, handler in before.items():
            signal.signal(other, signal.SIG_DFL if at_once else handler)

    if threading.current_thread() is threading.main_thread():
        for caught in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(caught) is signal.SIG_IGN:
                continue
            previous = signal.signal(caught, heard_signal)
            before[caught] = signal.SIG_DFL if previous is None else previous
    try:
        with stoppable(stop):
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

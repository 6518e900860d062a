"""Run a campaign by calling its objective: in this process, or by any executor, with several evaluations at once."""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import suppress
from typing import Any, Protocol

from sggp.bayesopt.storage.running import Running
from sggp.bayesopt.trials import Trial
from sggp.checks import finite_number, whole_number
from sggp.errors import DtypeError, Exhausted, InputError, NotSaved

_LOOK = 0.1  # seconds between two looks at evaluations that have a time limit


class Askable(Protocol):
    """What is used of a `Campaign`."""

    store: Any

    @property
    def pending(self) -> list[Trial]:
        """Trials without a result."""

    def results(self) -> list[Trial]:
        """Every trial."""

    def ask(self, q: int = 1) -> list[Trial]:
        """New trials."""

    def tell(self, id: int, value: Any) -> Trial:
        """A result."""

    def fail(self, id: int, reason: str = "") -> Trial:
        """A failure."""


class Evaluation:
    """The evaluations of one `Campaign.run`, whose arguments these are."""

    def __init__(
        self,
        campaign: Askable,
        objective: Callable[[Trial], Any],
        *,
        executor: Executor | None,
        budget: int,
        batch_size: int,
        timeout: float | None,
        retries: int,
    ) -> None:
        if not callable(objective):
            raise DtypeError(f"objective must be a function of a trial, got {type(objective).__name__}.")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise DtypeError(
                f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}."
            )
        if isinstance(executor, ProcessPoolExecutor):
            _check_pickles(objective)
        self.campaign, self.objective, self.executor = campaign, objective, executor
        self.budget = whole_number(budget, "budget", least=0)
        self.batch_size = whole_number(batch_size, "batch_size")
        self.retries = whole_number(retries, "retries", least=0)
        self.timeout = None if timeout is None else finite_number(timeout, "timeout")
        if self.timeout is not None and (self.timeout <= 0 or executor is None):
            raise InputError(
                "timeout must be a positive number of seconds, and needs an executor= to stop waiting."
            )
        # Dask's futures, for one, do not say when they begin to run: their time counts from when they are handed over
        self.tells = isinstance(executor, ThreadPoolExecutor | ProcessPoolExecutor)
        self.ended: list[Trial] = []
        self.waiting: list[Trial] = []
        self.running: dict[Future, Trial] = {}
        self.started: dict[Future, float] = {}
        self.handed: list[Future] = []  # not done, in order, with those that were given up
        self.tries: dict[int, int] = {}
        self.exhausted = False

    def run(self) -> list[Trial]:
        """Evaluate until the budget is used; the trials that ended, in that order."""
        with Running(self.campaign.store) as running:
            if running.alone:
                self.waiting = self.campaign.pending[: self.budget]
            running.begun()
            try:
                while True:
                    self._refill()
                    if self.running:
                        self._collect()
                    elif self.waiting:
                        self._evaluate_here()
                    else:
                        return self.ended
            finally:
                self._leave()

    def _leave(self) -> None:
        """Whatever stopped us: what has ended is told, the others stay pending, to be resumed."""
        for future, trial in list(self.running.items()):
            if not future.cancel() and future.done() and _error(future) is None:
                with suppress(Exception):  # what stopped us is raised: a full disk, say
                    self._tell(trial, future.result())

    def _refill(self) -> None:
        """Ask for what fits in the free slots, and hand it to the executor."""
        busy = len(self.running) + len(self.waiting)
        free = min(self.batch_size - busy, self.budget - len(self.ended) - busy)
        serial = self.executor is None and busy > 0
        if free > 0 and not self.exhausted and not serial:
            self.waiting += self._asked(free)
        if self.executor is not None:
            while self.waiting and len(self.running) < self.batch_size:
                self._submit()

    def _asked(self, count: int) -> list[Trial]:
        for number in (count, 1):
            try:
                return self.campaign.ask(number)
            except Exhausted:
                continue
        self.exhausted = True
        return []

    def _next(self) -> Trial | None:
        """The first that waits; None where it was ended meanwhile, by another process perhaps."""
        trial = self.waiting.pop(0)
        if all(trial.id != one.id for one in self.campaign.pending):
            return None
        self.tries[trial.id] = self.tries.get(trial.id, 0) + 1
        return trial

    def _submit(self) -> None:
        if (trial := self._next()) is None:
            return
        try:
            future = self.executor.submit(self.objective, trial)  # type: ignore[union-attr]
        except BrokenExecutor:
            raise
        except RuntimeError as error:
            raise InputError(
                f"the executor takes no work ({error}): trial {trial.id} stays pending."
            ) from error
        self.running[future] = trial
        self.handed.append(future)
        if not self.tells:
            self.started[future] = time.monotonic()

    def _collect(self) -> None:
        done, _ = wait(
            self.running,
            None if self.timeout is None else min(_LOOK, self.timeout),
            return_when=FIRST_COMPLETED,
        )
        stops = [error for future in done if (error := self._end(future)) is not None]
        if stops:  # after the others of `done` were told
            raise stops[0]
        if self.timeout is not None:
            self._give_up(self.timeout)

    def _end(self, future: Future) -> BaseException | None:
        """Tell what became of an evaluation that is done; what ends the run, where it does."""
        trial, error = self.running[future], _error(future)
        if isinstance(error, BrokenExecutor) or not isinstance(error, Exception | None):
            return error
        if future.cancelled():
            return InputError("the executor was shut down: the trials it had not finished stay pending.")
        if error is None:
            self._tell(trial, future.result())
        else:
            self._failed(trial, error)
        del self.running[future]  # not before: a Ctrl-C in between loses nothing
        return None

    def _give_up(self, timeout: float) -> None:
        """Fail what has run for longer than the limit; its worker is left alone."""
        now = time.monotonic()
        self.handed = [future for future in self.handed if not future.done()]
        # a process pool calls those running as well that wait for a worker: they are taken in order
        workers = getattr(self.executor, "_max_workers", None) if self.tells else None
        begun = set(self.handed[:workers])
        for future in [f for f in self.running if f in begun and (f.running() or not self.tells)]:
            if now - self.started.setdefault(future, now) > timeout:
                self._failed(self.running.pop(future), TimeoutError(f"no result after {timeout:g} s"))

    def _evaluate_here(self) -> None:
        if (trial := self._next()) is None:
            return
        try:
            value = self.objective(trial)
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises fails its trial
            self._failed(trial, error)
        else:
            self._tell(trial, value)

    def _tell(self, trial: Trial, value: Any) -> None:
        try:
            self.ended.append(self.campaign.tell(trial.id, value))
        except InputError as error:
            given = f" It gave {value!r:.400}." if isinstance(value, Mapping) else ""
            self._fail(trial, f"the objective gave no measurement: {error}{given}", f"{value!r:.400}")

    def _failed(self, trial: Trial, error: BaseException) -> None:
        if self.tries[trial.id] <= self.retries:
            self.waiting.insert(0, trial)
            return
        times = f" ({self.tries[trial.id]} tries)" if self.retries else ""
        reason = f"{type(error).__name__}: {_said(error)}{times}"
        self._fail(trial, reason, reason)

    def _fail(self, trial: Trial, reason: str, got: str) -> None:
        """Fail a trial, unless it was ended by someone else while it was evaluated."""
        stored = next(one for one in self.campaign.results() if one.id == trial.id)
        if stored.state == "pending":
            stored = self.campaign.fail(trial.id, _plain(reason))
        else:
            warnings.warn(
                f"trial {trial.id} is {stored.state} since it was given to the objective: that stays, and what the "
                f"objective gave is not stored ({got}); amend(id, value, why) puts it there.",
                NotSaved,
                stacklevel=2,
            )
        self.ended.append(stored)


def _error(future: Future) -> BaseException | None:
    """What a future that is done raised."""
    return None if future.cancelled() else future.exception()


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error of the user's own
        return "(its text cannot be made)"


def _plain(said: str) -> str:
    """A text that every storage keeps."""
    return said.encode("utf-8", "replace").decode().replace("\0", " ")


def _check_pickles(objective: Any) -> None:
    try:
        pickle.dumps(objective)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the objective cannot be sent to other processes ({error}): define it at the top of a module."
        ) from error

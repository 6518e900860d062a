"""Run a campaign by calling its objective: in this process, or by any executor, with several evaluations at once."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from typing import Any, Protocol

from sggp.bayesopt.trials import Trial
from sggp.checks import finite_number, whole_number
from sggp.errors import DtypeError, Exhausted, InputError

_LOOK = 0.1  # seconds between two looks at evaluations that have a time limit


class Askable(Protocol):
    """What is used of a `Campaign`."""

    @property
    def pending(self) -> list[Trial]:
        """Trials without a result."""

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
        self.tries: dict[int, int] = {}
        self.exhausted = False

    def run(self) -> list[Trial]:
        """Evaluate until the budget is used; the trials that ended, in that order."""
        self.waiting = self.campaign.pending[: self.budget]
        try:
            while True:
                self._refill()
                if self.running:
                    self._collect()
                elif self.waiting:
                    self._evaluate_here(self.waiting.pop(0))
                else:
                    return self.ended
        finally:
            for future in self.running:  # whatever stopped us: they stay pending, to be resumed
                future.cancel()

    def _refill(self) -> None:
        """Ask for what fits in the free slots, and hand it to the executor."""
        busy = len(self.running) + len(self.waiting)
        free = min(self.batch_size - busy, self.budget - len(self.ended) - busy)
        serial = self.executor is None and busy > 0
        if free > 0 and not self.exhausted and not serial:
            self.waiting += self._asked(free)
        if self.executor is not None:
            while self.waiting and len(self.running) < self.batch_size:
                self._submit(self.waiting.pop(0))

    def _asked(self, count: int) -> list[Trial]:
        for number in (count, 1):
            try:
                return self.campaign.ask(number)
            except Exhausted:
                continue
        self.exhausted = True
        return []

    def _submit(self, trial: Trial) -> None:
        self.tries[trial.id] = self.tries.get(trial.id, 0) + 1
        future = self.executor.submit(self.objective, trial)  # type: ignore[union-attr]
        self.running[future] = trial
        if not self.tells:
            self.started[future] = time.monotonic()

    def _collect(self) -> None:
        done, _ = wait(
            self.running,
            None if self.timeout is None else min(_LOOK, self.timeout),
            return_when=FIRST_COMPLETED,
        )
        for future in done:
            trial = self.running.pop(future)
            error = future.exception() if not future.cancelled() else None
            if future.cancelled() or isinstance(error, BrokenExecutor):
                self.running[future] = trial
                raise error or InputError(
                    "the executor was shut down: the trials it had not finished stay pending."
                )
            if error is None:
                self._tell(trial, future.result())
            else:
                self._failed(trial, error)
        if self.timeout is not None:
            self._give_up(self.timeout)

    def _give_up(self, timeout: float) -> None:
        """Fail what has run for longer than the limit; its worker is left alone."""
        now = time.monotonic()
        for future in [future for future in self.running if future.running() or not self.tells]:
            if now - self.started.setdefault(future, now) > timeout:
                self._failed(self.running.pop(future), TimeoutError(f"no result after {timeout:g} s"))

    def _evaluate_here(self, trial: Trial) -> None:
        self.tries[trial.id] = self.tries.get(trial.id, 0) + 1
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
            self.ended.append(self.campaign.fail(trial.id, f"the objective gave no measurement: {error}"))

    def _failed(self, trial: Trial, error: BaseException) -> None:
        if self.tries[trial.id] <= self.retries:
            self.waiting.insert(0, trial)
            return
        said = str(error).encode("utf-8", "replace").decode().replace("\0", " ")
        times = f" ({self.tries[trial.id]} tries)" if self.retries else ""
        self.ended.append(self.campaign.fail(trial.id, f"{type(error).__name__}: {said}{times}"))


def _check_pickles(objective: Any) -> None:
    try:
        pickle.dumps(objective)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the objective cannot be sent to other processes ({error}): define it at the top of a module."
        ) from error

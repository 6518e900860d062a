"""Campaigns killed (SIGKILL) at random moments and started again: is anything lost, stored twice, or asked otherwise?

Each round forks a process that works through a list of calls (ask, tell, tell_many, fail, attach, attach_many, amend,
withdraw, repeat, an export and its import), noting each call that has returned; kills it after a random part of the
time such a list takes; and has a second process finish the list. Then the journal must be, event by event, that of a
campaign that was never killed, every noted call must be in it, and no call half.

    create  a new campaign and two attached points: the kills fall into the creation of the file
    store   all kinds of calls with points of a Sobol sequence: the kills fall into writing
    model   the same with a model from the third measurement on: the kills fall into the choice as well

    python benchmarks/kills.py [--kills 200] [--modes create store model] [--seed 0] [--url postgresql+psycopg://...]

With `--url` the campaigns are kept in that database, one schema for each.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib.common import header, print_table
from sggp.bayesopt import Box, Campaign
from sggp.bayesopt.storage import Storage, open_storage

MODES = ("create", "store", "model")
BOX = [[0.0, 1.0], [-2.0, 2.0]]
Step = tuple[str, int, Callable[[Campaign], Any]]


def value(trial: Any) -> float:
    return -((trial.x[0] - 0.7) ** 2) - (trial.x[1] - 0.5) ** 2


def steps(folder: Path, mode: str) -> list[Step]:
    """What is called, how many events it writes, and the call."""
    attach: Step = (
        "attach_many",
        2,
        lambda c: c.attach_many([([0.1, 0.1], (1.0, 0.1)), ([0.2, -1.0], ">0.5")]),
    )
    if mode == "create":
        return [attach]

    def tell_pending(c: Campaign, count: int) -> None:
        c.tell_many({trial.id: value(trial) for trial in c.pending[:count]})

    def pass_on(c: Campaign) -> None:
        c.export(folder / "export.jsonl")
        Campaign.import_(folder / "export.jsonl", folder / "imported.db")

    def one_round(start: int) -> list[Step]:
        return [
            ("ask", 4, lambda c: c.ask(4)),
            ("tell", 1, lambda c: c.tell(c.pending[0].id, value(c.pending[0]))),
            ("fail", 1, lambda c: c.fail(c.pending[0].id, "broken vial", policy="retry")),
            ("tell_many", 2, lambda c: tell_pending(c, 2)),
            ("amend", 1, lambda c: c.amend(start, 0.25, "misread")),
            ("attach", 1, lambda c: c.attach([0.5, start / 100], 0.5, cost=2.0)),
            ("withdraw", 1, lambda c: c.withdraw(start + 1, "contaminated")),
            ("repeat", 2, lambda c: c.repeat(start, 2)),
            ("tell_many", 2, lambda c: tell_pending(c, 2)),
            ("import", 0, pass_on),
        ]

    rounds = 4 if mode == "store" else 2
    return [
        attach,
        *(step for number in range(rounds) for step in one_round(3 + 7 * number)),
        ("ask", 3, lambda c: c.ask(3)),
    ]


def work(folder: Path, store: Storage, mode: str, noted: Path) -> None:
    """Go on with the list where the journal says that it ended."""
    torch.set_num_threads(1)
    initial = 3 if mode == "model" else 1000
    campaign = Campaign(Box(BOX), store, maximize="max", seed=7, num_initial=initial)
    log = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, b"1\n")
    due = 1
    for _, events, call in steps(folder, mode):
        done = len(campaign.history())
        due += events
        if done > due or (events and done == due):
            continue
        if done != due - events:
            raise RuntimeError(f"half a call is stored: {done} events, between {due - events} and {due}")
        call(campaign)
        os.write(log, f"{due}\n".encode())


def fork(task: Callable[[], None]) -> int:
    """The id of a process that does this and ends."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            task()
            status = 0
        except BaseException as error:  # noqa: BLE001 - the parent reads it
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    return child


def journal(store: Storage) -> list[tuple[Any, ...]]:
    """The events without times and checksums, and without what is drawn for each campaign anew."""
    plain = [(e, {name: part for name, part in e.data.items() if name != "uuid"}) for e in store.events()]
    return [(e.number, e.what, e.trial, data, e.reason) for e, data in plain]


def make_store(url: str | None, folder: Path, name: str) -> Storage:
    if url is None:
        return open_storage(folder / "campaign.db")
    from sqlalchemy import create_engine, text

    with create_engine(url).begin() as db:
        db.execute(text(f"CREATE SCHEMA {name}"))
    return open_storage(f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}")


def one_kill(
    folder: Path, store: Storage, mode: str, delay: float, truth: list[tuple[Any, ...]]
) -> tuple[str, str]:
    """What was going on when the kill fell, and what went wrong ("" for nothing)."""
    noted = folder / "noted"
    child = fork(lambda: work(folder, store, mode, noted))
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    acknowledged = max(map(int, noted.read_text().split()), default=0) if noted.exists() else 0
    there = len(journal(store)) if store.exists else 0
    moment = "after the end" if os.WIFEXITED(status) else f"{acknowledged} events noted, {there} stored"
    if there < acknowledged:
        return moment, f"lost: {acknowledged} events were noted, {there} are there"
    if journal(store)[:there] != truth[:there] if there else False:
        return moment, "what is stored differs from the unbroken campaign"
    if os.waitpid(fork(lambda: work(folder, store, mode, noted)), 0)[1] != 0:
        return moment, "the second start failed"
    if journal(store) != truth:
        return moment, "the finished campaign differs from the unbroken one"
    store.verify()  # type: ignore[attr-defined]
    return moment, ""


def unbroken(folder: Path, store: Storage, mode: str) -> tuple[list[tuple[Any, ...]], float]:
    began = time.perf_counter()
    if os.waitpid(fork(lambda: work(folder, store, mode, folder / "noted")), 0)[1] != 0:
        raise SystemExit(f"{mode}: the unbroken campaign failed")
    return journal(store), time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="a database in the place of files")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    prefix = f"kills_{os.getpid()}"
    header("Campaigns killed at random moments", ("torch",))
    wrong: list[str] = []
    rows = []
    for mode in options.modes:
        share = options.kills // len(options.modes) + (
            options.modes.index(mode) < options.kills % len(options.modes)
        )
        with tempfile.TemporaryDirectory() as base:
            first = Path(base) / "unbroken"
            first.mkdir()
            truth, seconds = unbroken(first, make_store(options.url, first, f"{prefix}_{mode}"), mode)
            moments: Counter[str] = Counter()
            for number in range(share):
                folder = Path(base) / str(number)
                folder.mkdir()
                store = make_store(options.url, folder, f"{prefix}_{mode}_{number}")
                moment, problem = one_kill(folder, store, mode, draw.uniform(0.0, seconds), truth)
                moments[moment] += 1
                wrong += [f"{mode} {number}: {problem} ({moment})"] if problem else []
        cut = share - moments["after the end"]
        failed = sum(line.startswith(mode) for line in wrong)
        line = [mode, f"{seconds:.2f}", len(truth), share, cut, len(moments), failed]
        rows.append([str(cell) for cell in line])
    print_table(
        ["calls", "s unbroken", "events", "kills", "before the end", "at different states", "wrong"], rows
    )
    print("\n".join(wrong) or "nothing lost, nothing twice, every batch as unbroken")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())

"""Every solver against its peers: seconds until mean and samples are right, memory, accuracy, low noise, precision.

UCI tables, split 0, published hyperparameters (Matérn-3/2, one length scale per input), K never given. Each contender
runs in a process of its own, from the inputs to the predictions on the test rows, set-up included, from a ladder of
tolerances; the first rung whose predictions are close enough counts. "Close" is the relative 2-norm on the test rows;
for samples that of the worst of all columns. Ours is `sggp.condition` in float32, which merges repeated inputs;
peers get the rows as they are, and where rows repeat much also the rows as we merge them. Samples: peers are given
the right-hand sides, ours draws them.

    python benchmarks/solvers.py [--parts mean samples low-noise accuracy precision] [--sets pol bike]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sggp.solvers
from lib import reports
from lib.common import available_gib, end, header, print_table, run_apart
from lib.contenders import Case, Run, climb, dense_run, exact, gpytorch_run, ours_run, sdd_run

PARTS = ("mean", "samples", "low-noise", "accuracy", "precision")
SETS = ("pol", "bike", "protein", "keggdirected")
TARGETS = {"mean": (1e-2, 1e-3), "samples": (1e-2,)}
START_SECONDS = 60.0  # that a process may take before its clock runs
LADDER = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
PEERS = {"gpytorch": "GPyTorch", "cholesky": "float32 Cholesky", "textbook": "textbook SDD"}
METHODS = (
    "Auto",
    "ConjugateGradients",
    "StochasticDualDescent",
    "AlternatingProjections",
    "SketchAndProject",
    "StochasticGradientDescent",
)
WANTED = {  # seconds that Auto may take
    ("pol", "mean"): (1e-3, 8.0),
    ("protein", "mean"): (1e-3, 45.0),
    ("pol", "samples"): (1e-2, 15.0),
    ("protein", "samples"): (1e-2, 120.0),
}


@dataclass
class Contender:
    """A way to solve, its ladder, and what was found on it."""

    label: str
    call: Callable[..., Any]
    rungs: tuple[tuple[Any, ...], ...]
    ours: bool = False
    patient: bool = False  # knows no limit of its own: each rung is a process that can be stopped
    met: dict[float, tuple[Any, ...]] = field(default_factory=dict)
    runs: dict[tuple[Any, ...], list[Run]] = field(default_factory=dict)
    peak: float = 0.0
    note: str = ""

    def climb(self, case: Case, targets: tuple[float, ...], cap: float, limit: float | None) -> None:
        """The whole ladder in one process; see `climb`."""
        if self.patient:
            runs = self._step_by_step(case, targets, cap, limit)
        else:
            apart = run_apart(climb, self.call, case, self.rungs, targets, cap, limit_gib=self.limit(limit))
            self.peak = apart.peak_gib
            runs = apart.value if isinstance(apart.value, list) else []
            self.note = "" if runs else apart.failure or apart.value
        if runs:
            self._take(runs, targets, cap)

    def _step_by_step(
        self, case: Case, targets: tuple[float, ...], cap: float, limit: float | None
    ) -> list[Run]:
        """The ladder with a process per rung, killed where it outlasts the cap (and a minute to start)."""
        runs: list[Run] = []
        for rung in self.rungs:
            apart = run_apart(
                self.call, case, *rung, limit_gib=self.limit(limit), limit_seconds=cap + START_SECONDS
            )
            self.peak = max(self.peak, apart.peak_gib)  # of the rungs that ended: max(x, nan) is x
            if not isinstance(apart.value, Run):
                self.note = apart.failure or str(apart.value)
                break
            runs.append(apart.value)
            if apart.value.error <= min(targets) or apart.value.seconds > cap:
                break
        return runs

    def _take(self, found: list[Run], targets: tuple[float, ...], cap: float) -> None:
        """What the rungs met, and a remark on what they did not."""
        for rung, run in zip(self.rungs, found, strict=False):
            self.runs[rung] = [run]
            self.met.update({t: rung for t in targets if t not in self.met and run.error <= t})
        last, stopped = found[-1], self.note
        self.note = last.note
        if len(self.met) < len(targets):
            why = stopped or ("the whole ladder" if len(found) == len(self.rungs) else f"> {cap:.3g} s")
            self.note = f"{why}, at {last.error:.1e} ({last.note})"

    def again(self, case: Case, rung: tuple[Any, ...], limit: float | None) -> None:
        """One more run of a rung that counts."""
        apart = run_apart(self.call, case, *rung, limit_gib=self.limit(limit))
        if isinstance(apart.value, Run):
            self.runs[rung].append(apart.value)

    def limit(self, gib: float | None) -> float | None:
        return None if self.ours else gib

    def seconds(self, target: float) -> float | None:
        """The median, where the target was met."""
        if target not in self.met:
            return None
        return statistics.median(run.seconds for run in self.runs[self.met[target]])

    def cells(self, targets: tuple[float, ...]) -> list[str]:
        cells = [self.label]
        for target in targets:
            seconds = self.seconds(target)
            if seconds is None:
                cells += ["–", "–", "–"]
                continue
            run = self.runs[self.met[target]][-1]
            passes = "–" if run.epochs is None else f"{run.epochs:.0f}"
            cells += [f"{seconds:.2f}", passes, f"{run.error:.1e}"]
        return [*cells, f"{self.peak:.2f}", self.note]


def contenders(
    case: Case, methods: list[str], repeated: bool, cap: float, available: float
) -> list[Contender]:
    """All but `Auto`, which runs first, and textbook SDD, which runs last."""
    ladder = [(level,) for level in LADDER]
    found = [
        Contender(name, ours_run, tuple((name, level, cap) for level in LADDER), ours=True)
        for name in METHODS[1:]
        if name in methods and getattr(sggp.solvers, name, None) is not None
    ]
    for rank, merged in ((15, False), (100, False), *([(100, True)] if repeated else [])):
        label = f"GPyTorch CG, preconditioner rank {rank}{', merged rows' if merged else ''}"
        rungs = tuple((rank, merged, *level) for level in ladder)
        found.append(Contender(label, gpytorch_run, rungs, patient=True))
    for merged in (False, True) if repeated else (False,):
        label = f"float32 Cholesky{', merged rows' if merged else ''}"
        found.append(Contender(label, dense_run, ((merged, available),)))
    return found


def textbook(case: Case, targets: tuple[float, ...], cap: float, limit: float) -> Contender:
    """Textbook SDD, which has no tolerance: one run, watched."""
    out = Contender("textbook SDD (published step, batch 512)", sdd_run, ())
    apart = run_apart(sdd_run, case, targets, cap, limit_gib=limit)
    out.peak, out.note = apart.peak_gib, apart.failure
    for target, run in (apart.value or {}).items():
        if isinstance(run, Run):
            out.met[target], out.runs[(target,)] = (target,), [run]
        else:
            out.note = run
    return out


def race(case: Case, part: str, arguments: argparse.Namespace) -> list[Contender]:
    """All contenders on one table: `Auto` first, whose time sets the cap, then the others, then repeats in turn."""
    targets = TARGETS[part]
    limit = arguments.peer_gib or available_gib() - 1.0
    system = case.system()
    distinct = system.merged(system.y[:, None])[0].n
    print(f"## {case.name}, {part}: {system.n} rows, {distinct} distinct, {len(system.xs)} test rows")
    if not case.reference.exists():
        apart = run_apart(exact, case)
        if apart.value is None:
            print(f"no exact solution: {apart.failure}\n", flush=True)
            return []
    print(f"exact: {reports.how_exact(case.reference)}", flush=True)
    auto = Contender(
        "Auto", ours_run, tuple(("Auto", level, arguments.limit_seconds) for level in LADDER), True
    )
    auto.climb(case, targets, arguments.limit_seconds, None)
    cap = arguments.cap_seconds or 25.0 * (auto.seconds(targets[0]) or arguments.limit_seconds / 25.0)
    print(f"cap: {cap:.3g} s; peers may take {limit:.1f} GiB", flush=True)
    wanted = {PEERS[name] for name in arguments.peers}
    others = contenders(case, arguments.methods, system.n > 1.2 * distinct, cap, limit)
    field_ = [auto, *(one for one in others if one.ours or one.label.startswith(tuple(wanted)))]
    for contender in field_[1:]:
        contender.climb(case, targets, cap, limit)
        print("  ".join(contender.cells(targets)), flush=True)
    for _ in range(arguments.repeats - 1):
        for contender in field_:
            for rung in sorted(set(contender.met.values()), key=contender.rungs.index):
                if contender.runs[rung][0].seconds <= arguments.once_above:
                    contender.again(case, rung, limit)
    return [*field_, textbook(case, targets, cap, limit)] if "textbook" in arguments.peers else field_


def report(case: Case, part: str, found: list[Contender], arguments: argparse.Namespace) -> None:
    targets = TARGETS[part]
    columns = ["method"]
    for target in targets:
        columns += [f"seconds to {100 * target:g} %", "passes", "distance"]
    print_table([*columns, "peak GiB", "note"], [contender.cells(targets) for contender in found])
    auto, peers = found[0], [contender for contender in found if not contender.ours]
    for target in targets:
        ours = auto.seconds(target)
        if ours is None:
            print(f"Auto is not within {100 * target:g} %: MISSED")
            continue
        plain = [peer for peer in peers if peer.label.startswith(PEERS["textbook"])]
        strong = [peer for peer in peers if peer not in plain]
        for label, group, factor in (("best peer", strong, 3.0), ("textbook SDD", plain, 20.0)):
            if not group:
                continue
            best = min((c.seconds(target) for c in group if c.seconds(target)), default=None)
            text = "none got there" if best is None else f"{best / ours:.1f} × Auto's {ours:.2f} s"
            verdict = f" ({reports.verdict(best is None or best >= factor * ours)}: ≥ {factor:g} ×)"
            print(f"to {100 * target:g} %: {label} {text}{verdict if target == 1e-2 else ''}")
    if (case.name, part) in WANTED and arguments.rows is None:
        target, allowed = WANTED[case.name, part]
        ours = auto.seconds(target)
        good = ours is not None and ours <= allowed
        print(f"Auto to {100 * target:g} % in ≤ {allowed:g} s: {reports.verdict(good)}")
    if arguments.within_gib:
        print(
            f"Auto within {arguments.within_gib:g} GiB: {reports.verdict(auto.peak <= arguments.within_gib)}"
        )
    print(flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--sets", nargs="+", choices=reports.FIVE, default=None, help="tables; default those of each part")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="ours; Auto always runs")
    add("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="of the others")
    add("--rows", type=int, default=None, help="training and test rows to keep (a dry run)")
    add("--samples", type=int, default=64, help="sample columns")
    add("--repeats", type=int, default=3, help="runs of every rung that counts; medians are printed")
    add("--once-above", type=float, default=120.0, help="no repeats of a run that took longer, in seconds")
    add("--cap-seconds", type=float, default=None, help="for the others; default 25 × Auto's time to 1 %%")
    add("--limit-seconds", type=float, default=1200.0, help="for Auto")
    add("--within-gib", type=float, default=None, help="keep ours within so much memory")
    add("--peer-gib", type=float, default=None, help="memory a peer may take; default what is free less 1")
    add("--cache", type=Path, default=None, help="folder for exact solutions, which take minutes")
    add("--plot", type=Path, default=None, help="PNG of residual over seconds of our methods, mean part")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    # beside K: the process itself, the preconditioner, columns, and what predictions take
    memory = 8.0 if arguments.within_gib is None else max(0.25, arguments.within_gib - 1.5)
    header("solvers: split 0, published hyperparameters, K never given, set-up included")
    with tempfile.TemporaryDirectory() as temporary:
        cache = arguments.cache or Path(temporary)
        curves: dict[str, dict[str, Any]] = {}
        for part in ("mean", "samples"):
            for name in (arguments.sets or SETS) if part in arguments.parts else ():
                samples = arguments.samples if part == "samples" else 0
                reference = cache / f"{name}-{arguments.rows or 'all'}-{samples}.npz"
                case = Case(name, arguments.rows, samples, reference, memory)
                found = race(case, part, arguments)
                if found:
                    report(case, part, found, arguments)
                if part == "mean":
                    curves[name] = {
                        c.label: list(c.runs.values())[-1][-1].solution for c in found if c.ours and c.runs
                    }
        if arguments.plot is not None and curves:
            reports.draw(curves, arguments.plot)
    for part, show in reports.PARTS.items():
        if part in arguments.parts:
            show(arguments, memory)
    end()


if __name__ == "__main__":
    main()

"""A solve that is interrupted and resumed ends, bit for bit, where an unbroken one ends."""

from __future__ import annotations

import signal

import pytest
import torch

from sggp.errors import CheckpointError, SggpWarning
from sggp.operators import KernelOperator
from sggp.persistence import read_content
from sggp.solvers import (
    AlternatingProjections,
    Cholesky,
    ConjugateGradients,
    SketchAndProject,
    Status,
    StochasticDualDescent,
    StochasticGradientDescent,
)
from sggp.solvers.core import checkpoint, run
from tests.scripts import Scripts
from tests.solvers.dense import matern

SOLVERS = {
    "cg": ConjugateGradients(None),
    "cg-auto": ConjugateGradients(replace_every=3),
    "sdd": StochasticDualDescent(batch_size=64),
    "sgd": StochasticGradientDescent(batch_size=64),
    "ap": AlternatingProjections(block_size=70),
    "sap": SketchAndProject(block_size=60, rank=20),
}
NOISE = {"cg-auto": 1e-3, "ap": 0.5, "sap": 0.5}


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Writes come when `killer` asks for them, not by the clock, and do not wait for the disk."""
    monkeypatch.setattr(checkpoint, "_INTERVAL", float("inf"))
    monkeypatch.setattr(checkpoint, "_WORK_PER_WRITE", 0.0)
    monkeypatch.setattr("sggp.files.os.fsync", lambda _: None)


def make_system(name, generator, dtype=torch.float64, n=300):
    x = torch.randn(n, 3, generator=generator).double()  # whole in float32: only products are narrowed
    operator = KernelOperator(matern(3), x, NOISE.get(name, 0.05), dtype=dtype)
    rhs = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    rhs[:, 2] = 0  # a trivial column in between
    return operator, rhs


def killer(at):
    """Raises in the callback of step `at`; the last file is that of the step before."""

    def callback(progress):
        checkpoint._INTERVAL = 0.0 if progress.iterations == at - 1 else float("inf")
        if progress.iterations == at:
            raise Killed

    return callback


def same(one, two):
    assert torch.equal(one.x, two.x)
    assert one.status == two.status
    assert torch.equal(one.residual, two.residual)
    assert one.iterations == two.iterations
    assert len(one.history) == len(two.history)
    for left, right in zip(one.history, two.history, strict=True):
        assert torch.equal(left.residual, right.residual)
        assert left.kind == right.kind


@pytest.mark.parametrize("name", ["cg", "sdd"])
def test_columns_that_are_solved_in_groups_go_on_in_the_group(name, generator, tmp_path):
    operator, rhs = make_system(name, generator, n=180)
    operator.memory_budget = 4 * 28 * 180 * 1.5  # two of three that are not zero
    whole = SOLVERS[name].solve(operator, rhs, tolerance=1e-3, generator=3)
    assert whole.converged
    for at in (3, whole.iterations - 1):  # in the first group, and in the last
        path = tmp_path / f"{at}.ckpt"
        with pytest.raises(Killed):
            SOLVERS[name].solve(
                operator, rhs, tolerance=1e-3, generator=3, checkpoint=path, callback=killer(at)
            )
        same(SOLVERS[name].solve(operator, rhs, tolerance=1e-3, generator=3, checkpoint=path), whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32-refined"])
@pytest.mark.parametrize("name", SOLVERS)
def test_ends_where_an_unbroken_solve_ends(name, dtype, generator, tmp_path):
    """Killed early and just before the end, `check_solver` does it halfway; columns leave at different times."""
    operator, rhs = make_system(name, generator, dtype, n=180)
    tight = 1e-9 if dtype == torch.float32 and name == "cg" else 1e-4
    arguments = {"tolerance": torch.tensor([1e-1, 1e-3, 1e-3, tight]), "generator": 3}
    whole = SOLVERS[name].solve(operator, rhs, **arguments)
    assert whole.converged
    if tight == 1e-9:
        assert any("refined" in note for note in whole.notes)
    for at in sorted({2, whole.iterations}):
        path = tmp_path / f"{at}.ckpt"
        with pytest.raises(Killed):
            SOLVERS[name].solve(operator, rhs, **arguments, checkpoint=path, callback=killer(at))
        assert path.exists()
        resumed = SOLVERS[name].solve(operator, rhs, **arguments, checkpoint=path)
        same(resumed, whole)
        assert any("resumed" in note for note in resumed.notes)
        if name != "ap":  # whose factors are a cache, made again
            assert resumed.epochs == whole.epochs


def test_killed_twice_and_from_a_start_of_its_own(generator, tmp_path):
    operator, rhs = make_system("sdd", generator)
    arguments = {"tolerance": 1e-3, "generator": 3}
    solver, x0 = SOLVERS["sdd"], torch.randn(300, 4, generator=generator, dtype=torch.float64)
    whole = solver.solve(operator, rhs, x0, **arguments)
    for at in (7, 15):
        with pytest.raises(Killed):
            solver.solve(operator, rhs, x0, **arguments, checkpoint=tmp_path / "c", callback=killer(at))
    same(solver.solve(operator, rhs, x0, **arguments, checkpoint=tmp_path / "c"), whole)
    with pytest.raises(CheckpointError, match="x0"):
        solver.solve(operator, rhs, **arguments, checkpoint=tmp_path / "c")


def test_without_a_seed_the_drawn_one_goes_on(generator, tmp_path):
    """Each draw is fresh, so only the file can know how to go on; resuming one file twice gives one answer."""
    operator, rhs = make_system("sdd", generator)
    with pytest.raises(Killed):
        SOLVERS["sdd"].solve(operator, rhs, checkpoint=tmp_path / "a", callback=killer(9))
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    one, two = (SOLVERS["sdd"].solve(operator, rhs, checkpoint=tmp_path / name) for name in "ab")
    same(one, two)


def test_a_finished_solve_returns_at_once(generator, tmp_path, monkeypatch):
    operator, rhs = make_system("cg", generator)
    now, product = [0.0], operator.matmul  # on this clock a product takes a second, and nothing else any time

    def slow(v):
        now[0] += 1.0
        return product(v)

    monkeypatch.setattr(run.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(operator, "matmul", slow)
    first = SOLVERS["cg"].solve(operator, rhs, generator=1, checkpoint=tmp_path / "c")
    before, content = operator.entries_evaluated, (tmp_path / "c").read_bytes()
    again = SOLVERS["cg"].solve(operator, rhs, generator=1, checkpoint=tmp_path / "c")
    same(first, again)
    assert again.seconds == first.seconds > 1
    assert operator.entries_evaluated - before < 300**2  # the look at the operator, no product
    assert (tmp_path / "c").read_bytes() == content


def test_a_spent_budget_is_not_spent_again_and_a_larger_one_goes_on(generator, tmp_path):
    operator, rhs = make_system("cg", generator)
    arguments = {"tolerance": 1e-8, "checkpoint": tmp_path / "c", "on_failure": "return"}
    short = SOLVERS["cg"].solve(operator, rhs, max_epochs=5, **arguments)
    assert Status.BUDGET_SPENT in short.status
    same(SOLVERS["cg"].solve(operator, rhs, max_epochs=5, **arguments), short)
    longer = SOLVERS["cg"].solve(operator, rhs, max_epochs=200, **arguments)
    assert longer.converged
    assert longer.iterations > short.iterations
    assert longer.history[: len(short.history)][0].epochs == short.history[0].epochs


def test_a_column_leaves_the_file_with_its_work(generator, tmp_path):
    """The file of a late step holds the state of one column, not of four."""
    operator, rhs = make_system("cg", generator)
    limits = torch.tensor([1e-1, 1e-1, 1e-1, 1e-10])
    with pytest.raises(Killed):
        SOLVERS["cg"].solve(operator, rhs, tolerance=limits, checkpoint=tmp_path / "c", callback=killer(40))
    content = read_content(tmp_path / "c", checkpoint._KIND)
    assert content["state"]["fields"]["x"].shape == (300, 1)
    assert content["state"]["kept"].tolist() == [2]  # the last of the three columns that need work


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("right-hand side", lambda o, b, a: (o, b + 1e-3 * torch.eye(300, 4).double(), a)),
        ("tolerance", lambda o, b, a: (o, b, a | {"tolerance": 1e-5})),
        ("s is 3", lambda o, b, a: (o, b[:, 1:], a)),
        ("diagonal", lambda o, b, a: (KernelOperator(matern(3), o.x, 0.06), b, a)),
        ("entries", lambda o, b, a: (KernelOperator(matern(3), o.x * 1.01, 0.05), b, a)),
        ("dtype", lambda o, b, a: (KernelOperator(matern(3), o.x, 0.05, dtype=torch.float32), b, a)),
        ("seed", lambda o, b, a: (o, b, a | {"generator": 4})),
        ("solver", lambda o, b, a: (o, b, a | {"solver": ConjugateGradients(None, replace_every=7)})),
    ],
)
def test_another_problem_is_refused(what, change, generator, tmp_path):
    operator, rhs = make_system("cg", generator)
    arguments = {"solver": SOLVERS["cg"], "tolerance": 1e-6, "generator": 3, "checkpoint": tmp_path / "c"}
    with pytest.raises(Killed):
        (arguments | {})["solver"].solve(
            operator, rhs, **{k: v for k, v in arguments.items() if k != "solver"}, callback=killer(5)
        )
    operator, rhs, changed = change(operator, rhs, arguments)
    solver = changed.pop("solver") if changed is not arguments else SOLVERS["cg"]
    changed = {k: v for k, v in changed.items() if k != "solver"}
    content = (tmp_path / "c").read_bytes()
    with pytest.raises(CheckpointError, match=what):
        solver.solve(operator, rhs, **changed)
    assert (tmp_path / "c").read_bytes() == content


@pytest.mark.parametrize("moved", ["a row", "length scales", "a matrix known by products"])
def test_what_a_few_rows_do_not_show_is_another_problem(moved, generator, tmp_path):
    """A solve that has ended would be given for the other system, as converged."""
    operator, rhs = make_system("cg", generator)
    x, kernel, other = operator.x.clone(), matern(3), matern(3)
    assert (torch.linspace(0, 299, 32).long() != 100).all()  # no row of the block that is compared
    if moved == "a row":
        x[100] += 0.5
    else:  # so short that this block is that of the diagonal
        x *= 1e3
        x[1] = x[0] + 1.0
        operator = KernelOperator(kernel, x, 0.05)
        other.base_kernel.lengthscale = 2 * kernel.base_kernel.lengthscale
    changed = KernelOperator(other, x, 0.05)
    if moved == "a matrix known by products":
        operator, changed = Products(operator), Products(changed)
    solve = ConjugateGradients(None).solve
    solve(operator, rhs, generator=1, checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"operator's (x|rows) differs"):
        solve(changed, rhs, generator=1, checkpoint=tmp_path / "c")
    assert solve(operator, rhs, generator=1, checkpoint=tmp_path / "c").converged


class Products:
    """An operator of which a solver knows products alone."""

    entries_evaluated = 0

    def __init__(self, operator):
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device
        self.matmul, self.diagonal = operator.matmul, operator.diagonal


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_a_damaged_file_is_refused_and_kept(damage, generator, tmp_path):
    operator, rhs = make_system("cg", generator)
    path = tmp_path / "c"
    with pytest.raises(Killed):
        SOLVERS["cg"].solve(operator, rhs, checkpoint=path, callback=killer(3))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-100], "flipped": content, "text": b"hello" * 100, "empty": b""}[damage]
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        SOLVERS["cg"].solve(operator, rhs, checkpoint=path)
    assert path.read_bytes() == damaged


def test_a_place_that_cannot_be_written_is_told_at_the_start(generator, tmp_path, monkeypatch):
    operator, rhs = make_system("cg", generator)
    before = operator.entries_evaluated
    for path in (tmp_path / "missing" / "c", tmp_path):
        with pytest.raises(CheckpointError):
            SOLVERS["cg"].solve(operator, rhs, checkpoint=path)

    def refuse(**_):
        raise PermissionError(13, "Permission denied")  # as root, the mode of a directory refuses nothing

    monkeypatch.setattr("sggp.files.tempfile.TemporaryFile", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        SOLVERS["cg"].solve(operator, rhs, checkpoint=tmp_path / "c")
    assert operator.entries_evaluated - before < 300**2


def test_a_full_disk_costs_the_checkpoint_not_the_solve(generator, tmp_path, monkeypatch):
    operator, rhs = make_system("cg", generator)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sggp.files.os.fsync", full)
    with pytest.warns(SggpWarning, match="No space left"):
        solution = SOLVERS["cg"].solve(operator, rhs, checkpoint=tmp_path / "c")
    assert solution.converged
    assert sum("goes on without a checkpoint" in note for note in solution.notes) == 1
    assert list(tmp_path.iterdir()) == []


def test_direct_solvers_ignore_it(generator, tmp_path):
    operator, rhs = make_system("cg", generator)
    assert Cholesky().solve(operator, rhs, checkpoint=tmp_path / "c").converged
    assert not (tmp_path / "c").exists()


def test_writes_are_rare(generator, tmp_path, monkeypatch):
    """A write that takes a second is followed by 20 seconds of work."""
    monkeypatch.undo()
    operator, rhs = make_system("cg", generator)
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])
    written = []

    def slow(*_):
        written.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(checkpoint, "write_content", slow)

    def tick(_):
        now[0] += 0.5

    SOLVERS["cg"].solve(operator, rhs, tolerance=1e-12, max_epochs=70, checkpoint=tmp_path / "c", callback=tick,
                        on_failure="return")  # fmt: skip
    assert written[0] == pytest.approx(1.0)
    assert written[1] - written[0] == pytest.approx(21.0)


VICTIM = """
import os, signal, sys, torch
from sggp.solvers.core import checkpoint, run
from tests.solvers.test_checkpoint import SOLVERS, make_system
checkpoint._INTERVAL = checkpoint._WORK_PER_WRITE = 0.0
torch.set_num_threads(1)
operator, rhs = make_system("sdd", torch.Generator().manual_seed(1))

def die(progress):
    if progress.iterations == 9:
        os.kill(os.getpid(), signal.SIGKILL)

SOLVERS["sdd"].solve(operator, rhs, tolerance=1e-3, generator=3, checkpoint=sys.argv[1], callback=die)
"""


def test_sigkill(tmp_path, scripts: Scripts):
    """A process killed in the middle of a solve: another process ends it where it ends without a kill."""
    path = tmp_path / "a"
    victim = scripts.run("-c", VICTIM, path, OMP_NUM_THREADS="1")
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    halfway = read_content(path, checkpoint._KIND)
    assert halfway["state"] is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the process that was killed
    try:
        operator, rhs = make_system("sdd", torch.Generator().manual_seed(1))
        arguments = {"tolerance": 1e-3, "generator": 3}
        resumed = SOLVERS["sdd"].solve(operator, rhs, **arguments, checkpoint=path)
        same(resumed, SOLVERS["sdd"].solve(operator, rhs, **arguments))
    finally:
        torch.set_num_threads(threads)
    assert resumed.iterations > halfway["run"]["iterations"] == 8

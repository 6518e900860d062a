"""Devices of one host, each with a thread, and what is asked of workers in general."""

from __future__ import annotations

import pickle
from pathlib import Path

import gpytorch
import pytest
import torch

import sggp
from sggp.errors import InputError
from sggp.kernels import sharing
from sggp.operators import DistributedOperator
from sggp.parallel import Devices, Part, Workers, current
from sggp.parallel.checksum import checksum
from sggp.parallel.workers import share
from tests.parallel import work

CLOSE = {"fit mean": 1e-3}
CPUS = ["cpu", "cpu", "cpu"]


def test_devices_find_what_one_process_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = work.everything()
    monkeypatch.setattr(sharing, "LEAST_ENTRIES", 1)
    with sggp.distributed(CPUS) as workers:
        assert current() is workers
        found = work.everything()
    assert current().size == 1
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=scale * CLOSE.get(name, 1e-5), msg=name)


def test_threads_leave_the_settings_of_gpytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LEAST_ENTRIES", 1)
    before = gpytorch.settings.lazily_evaluate_kernels.on()
    with sggp.distributed(["cpu"] * 4):
        for _ in range(20):
            sggp.as_covariance(work.polynomial()).matmul(work.rows(), None, work.numbers(work.N, 1))
    assert gpytorch.settings.lazily_evaluate_kernels.on() == before


def test_an_operator_over_devices_needs_no_block() -> None:
    x, v = torch.cat([work.rows()] * 3), work.numbers(3 * work.N, 2)
    operator = DistributedOperator(work.matern(), x, 0.1, devices=CPUS)
    one = sggp.KernelOperator(work.matern(), x, 0.1)
    torch.testing.assert_close(operator.matmul(v), one.matmul(v))
    assert "Devices(['cpu', 'cpu', 'cpu'])" in repr(operator)
    solver = sggp.ConjugateGradients()
    torch.testing.assert_close(
        *(solver.solve(given, v, tolerance=1e-8, generator=0).x for given in (operator, one))
    )


def test_products_are_computed_by_every_thread() -> None:
    seen: list[Part] = []

    def compute(part: Part) -> torch.Tensor:
        seen.append(part)
        assert current().size == 1  # no product inside is shared again
        assert not torch.is_grad_enabled()
        return torch.ones(part.rows.stop - part.rows.start, 1)

    with sggp.distributed(CPUS) as workers:
        assert workers.gather(8, compute).shape == (8, 1)
        assert workers.total(9, compute).tolist() == [[3.0]] * 3
    assert sorted((part.number, part.rows.start, part.rows.stop) for part in seen[:3]) == [
        (0, 0, 2),
        (1, 2, 5),
        (2, 5, 8),
    ]


def test_an_error_of_a_device_is_raised() -> None:
    def compute(part: Part) -> torch.Tensor:
        raise ZeroDivisionError(f"part {part.number}")

    with pytest.raises(ZeroDivisionError, match="part"):
        Devices(CPUS).gather(8, compute)


def test_one_process_on_its_own_runs_the_same_program() -> None:
    with sggp.distributed() as workers:
        assert (workers.size, workers.rank, workers.first) == (1, 0, True)
        assert workers.map(max, [1, 5], [3, 2]) == [3, 5]
        assert workers.agreed(0.25) == 0.25
        assert workers.shared(lambda: "made") == "made"


def test_only_the_first_rank_writes_a_checkpoint(tmp_path: Path) -> None:
    class Rank(Workers):
        def __init__(self, rank: int) -> None:
            self.rank = rank

    operator, written = sggp.KernelOperator(work.matern(), work.rows(), 0.1), []
    for rank in (1, 0):
        operator.workers, file = Rank(rank), tmp_path / f"{rank}.ckpt"
        sggp.ConjugateGradients().solve(operator, work.targets(), generator=0, checkpoint=file)
        written.append(file.exists())
    assert written == [False, True]


def test_a_posterior_outlives_its_block() -> None:
    with sggp.distributed(CPUS):
        inside = sggp.condition(work.matern(), work.rows(), work.targets(), noise_variance=0.1, generator=0)
    again = pickle.loads(pickle.dumps(inside))
    for method in ("samples", "solve"):
        q = work.rows()[:4] + 0.1
        torch.testing.assert_close(again.variance(q, method=method), inside.variance(q, method=method))
    assert again.update(work.rows()[:2] + 0.2, work.targets()[:2], generator=0).solution.converged


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("cpu", "must be a list"),
        ([], "must be a list"),
        (["cuda:99"], "not all there"),
        (["gpu"], "not all there"),
    ],
)
def test_devices_that_cannot_be_used(devices: object, said: str) -> None:
    with pytest.raises(InputError, match=said), sggp.distributed(devices):  # type: ignore[arg-type]
        pass


def test_other_misuse() -> None:
    with pytest.raises(InputError, match="timeout"), sggp.distributed(timeout=0):
        pass
    with sggp.distributed(CPUS), pytest.raises(InputError, match="inside another"), sggp.distributed(CPUS):
        pass
    with pytest.raises(InputError, match="one process only"):
        DistributedOperator(work.matern(), work.rows(), 0.1)


@pytest.mark.parametrize("n", [0, 1, 5, 64])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_shares_cover_all_rows(n: int, size: int) -> None:
    parts = [range(n)[share(n, i, size)] for i in range(size)]
    assert [row for part in parts for row in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_checksums_tell_tensors_apart() -> None:
    x = work.rows()
    same = checksum([x, x[:3]])
    others = [[x], [x[:3], x], [x.T, x[:3]], [x.float(), x[:3]], [x.flip(0), x[:3]]]
    for row in (7, -1):  # the last entry is beyond whole pieces
        nudged = x.clone()
        nudged[row, -1] = torch.nextafter(x[row, -1], x[row, -1] + 1)
        others.append([nudged, x[:3]])
    assert same == checksum([x.clone(), x[:3].clone()])
    assert same not in [checksum(other) for other in others]
    assert checksum([work.counts()]) != checksum([work.counts() + 1])

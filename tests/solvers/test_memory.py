"""What a solve holds beside its operator, counted: so many bytes for each entry of the right-hand sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel

from sggp.operators import KernelOperator
from sggp.solvers import Solution, StochasticDualDescent, stochastic_dual_descent
from tests.memory import peak_bytes

ROWS, COLUMNS = 2000, 400


@pytest.fixture
def sides(tmp_path: Path) -> torch.Tensor:
    """Right-hand sides in a file, mapped: zero and non-finite columns among them."""
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    values[:, 1], values[3, 2] = 0.0, np.inf
    np.save(tmp_path / "b.npy", values)
    return torch.from_numpy(np.load(tmp_path / "b.npy", mmap_mode="c"))


def test_dual_descent_holds_forty_bytes_an_entry_and_reads_mapped_sides(
    sides: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 for solution, remainder and right-hand side, 20 for its states; no copies of those at the end."""
    x = torch.rand(ROWS, 2, generator=torch.Generator().manual_seed(1))
    operator = KernelOperator(MaternKernel(nu=1.5), x, 0.1, memory_budget=2**22)  # so that only states count
    found: list[Solution] = []
    solver = StochasticDualDescent(step_size=1.0, batch_size=64)

    def solve() -> None:
        found.append(solver.solve(operator, sides, max_epochs=0.5, generator=0, on_failure="return"))

    monkeypatch.setattr(stochastic_dual_descent, "_SUBSET", 64)  # rows that the step is found from
    assert peak_bytes(solve) < 40 * ROWS * COLUMNS + 2**21
    assert found[0].x.dtype == torch.float32
    assert found[0].residual_kind == "estimated"
    assert bool((found[0].x[:, 1] == 0).all())
    assert bool(found[0].x[:, 2].isnan().all())
    residual = (sides - operator.matmul(found[0].x)).norm(dim=0) / sides.norm(dim=0)
    kept = [0, *range(3, COLUMNS)]
    assert bool(((residual - found[0].residual)[kept].abs() < 6 * found[0].residual_error[kept]).all())


def test_an_operator_in_float32_is_made_without_further_copies() -> None:
    """It keeps the rows scaled by the length scales in both precisions, two and a half times x."""
    x = torch.rand(20_000, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kernel = MaternKernel(nu=1.5).double()
    held = peak_bytes(lambda: KernelOperator(kernel, x, 0.1, dtype=torch.float32))
    assert held < 2.8 * x.nbytes

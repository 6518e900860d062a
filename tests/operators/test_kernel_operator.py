"""K + Σ: products against dense formulas, in memory and by tiles, within the bytes it states."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import gpytorch
import pytest
import torch

from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError
from sggp.kernels import TanimotoMinMax
from sggp.native import library
from sggp.operators import KernelOperator, NeighbourOperator
from sggp.operators.base import completed
from sggp.solvers import ConjugateGradients
from tests.memory import peak_bytes

TILES = 2**20


def make_kernel(d: int = 3) -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=d)).double()
    kernel.outputscale = torch.tensor(0.6, dtype=torch.float64)
    kernel.base_kernel.lengthscale = torch.linspace(0.5, 1.5, d, dtype=torch.float64)
    return kernel


def dense_matern(x: torch.Tensor) -> torch.Tensor:
    scaled = x.double() / torch.linspace(0.5, 1.5, x.shape[1], dtype=torch.float64)
    r = 3**0.5 * (scaled[:, None] - scaled[None]).square().sum(-1).sqrt()
    return 0.6 * (1 + r) * torch.exp(-r)


@pytest.fixture
def x(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(601, 3, generator=generator, dtype=torch.float64)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiled engine: K is stored where it fits."""
    monkeypatch.setattr(library, "available", lambda: False)


@pytest.mark.parametrize("how", ["stored", "tiles", "fused"])
@pytest.mark.parametrize("noise", ["scalar", "vector"])
def test_products(x, generator, dtype, how, noise, request):
    if how == "fused" and not library.available():
        pytest.skip("the C++ engine is not built")
    if how != "fused":
        request.getfixturevalue("no_engine")
    budget = TILES if how == "tiles" else 4 * 2**30
    variance = 0.125 if noise == "scalar" else torch.rand(601, generator=generator, dtype=torch.float64)
    operator = KernelOperator(make_kernel(), x, variance, dtype=dtype, memory_budget=budget)
    assert operator.keeps_matrix == (how == "stored")
    exact = dense_matern(x) + torch.diag(torch.as_tensor(variance).double().expand(601))
    v = torch.randn(601, 5, generator=generator, dtype=dtype)
    rows = torch.tensor([0, 600, 3, 3])
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(operator.matmul(v), (exact @ v.double()).to(dtype), **close)
    torch.testing.assert_close(operator.rows_matmul(rows, v), (exact[rows] @ v.double()).to(dtype), **close)
    cols = torch.tensor([7, 600, 0])
    torch.testing.assert_close(
        operator.columns_matmul(cols, v[:3]), (exact[:, cols] @ v[:3].double()).to(dtype), **close
    )
    torch.testing.assert_close(operator.block(rows, rows[:2]), exact[rows][:, rows[:2]].to(dtype), **close)
    torch.testing.assert_close(operator.diagonal(), exact.diagonal().to(dtype), **close)
    if budget > TILES:
        torch.testing.assert_close(operator.dense(), exact, rtol=1e-12, atol=1e-12)
    assert operator.matmul(v).dtype == dtype


def test_what_preconditioners_ask_for(x, generator):
    operator = KernelOperator(make_kernel(), x, 0.1, dtype=torch.float32)
    exact = dense_matern(x)
    assert isinstance(operator, NeighbourOperator)
    index = torch.randint(601, (20, 6), generator=generator)
    small = operator.small_blocks(index)
    torch.testing.assert_close(small, exact[index[:, :, None], index[:, None, :]], rtol=1e-12, atol=1e-12)
    rows = torch.arange(5)
    torch.testing.assert_close(operator.cross_block(rows, rows + 9), exact[:5, 9:14], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(operator.kernel_diagonal(), exact.diagonal())


def test_neighbours_by_residual_correlation(x, generator):
    operator = KernelOperator(make_kernel(), x, 0.01)
    order = torch.randperm(601, generator=generator)
    factor = torch.linalg.cholesky(dense_matern(x))[:, :3]  # explains part of K exactly
    found = operator.earlier_neighbours(order, 4, factor)
    left = dense_matern(x) - factor @ factor.T + 0.01 * torch.eye(601, dtype=torch.float64)
    left = left[order][:, order]
    score = left.abs() / left.diagonal().sqrt()[None]
    score[torch.ones_like(score, dtype=torch.bool).triu()] = -1
    best = score.topk(4).indices
    agree = [len(set(a) & set(b)) for a, b in zip(found[20:].tolist(), best[20:].tolist(), strict=True)]
    # candidates are the nearest by distance, so a far but correlated row can be missed
    assert sum(agree) / (4 * len(agree)) > 0.9


@pytest.mark.parametrize("metric", [True, False], ids=["metric", "fingerprints"])
def test_neighbours_of_some_positions_are_those_of_all(metric, generator):
    counts = torch.poisson(torch.full((300, 40), 0.5), generator=generator)
    x = torch.rand(300, 7, generator=generator, dtype=torch.float64) if metric else counts.to(torch.uint8)
    operator = KernelOperator(make_kernel(7) if metric else TanimotoMinMax(), x, 0.1)
    order, rows = operator.ordering(generator), torch.tensor([0, 2, 17, 200, 299])
    some, everything = operator.earlier_of(order, rows, 5), operator.earlier_neighbours(order, 5)
    assert some.equal(everything[rows])
    assert completed(Plain(operator)).earlier_of(order, rows, 5).equal(some)


class Plain:
    """An operator with nothing beyond its protocol."""

    def __init__(self, operator):
        self.shape, self.earlier_neighbours = operator.shape, operator.earlier_neighbours


def test_neighbours_of_fingerprints_are_the_most_similar(generator):
    counts = torch.poisson(torch.full((60, 40), 0.5), generator=generator).to(torch.uint8)
    operator = KernelOperator(TanimotoMinMax(), counts, 0.1)
    found = operator.earlier_neighbours(torch.arange(60), 3)
    c = counts.double()
    low, high = torch.minimum(c[:, None], c[None]).sum(-1), torch.maximum(c[:, None], c[None]).sum(-1)
    similarity = low / high.clamp_min(1)
    for i in range(5, 60):
        worst_found = similarity[i, found[i]].min()
        others = [j for j in range(i) if j not in found[i].tolist()]
        assert float(worst_found) >= float(similarity[i, others].max()) - 1e-6


def test_entries_are_counted(x):
    operator = KernelOperator(make_kernel(), x, 0.1)
    v = torch.ones(601, 1, dtype=torch.float64)
    operator.matmul(v)
    assert operator.entries_evaluated == 601**2
    operator.rows_matmul(torch.arange(10), v)
    assert operator.entries_evaluated == 601**2 + 6010
    operator.block(torch.arange(3), torch.arange(4))
    assert operator.entries_evaluated == 601**2 + 6010 + 12


@pytest.mark.parametrize("what", ["matmul", "rows_matmul", "stored"])
def test_peak_memory_stays_within_the_budget(what, generator, request):
    if what == "stored":
        request.getfixturevalue("no_engine")
    n, s = 3000, 8
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    budget = 2**24 if what != "stored" else 3 * 2**25
    operator = KernelOperator(make_kernel(6), x, 0.1, dtype=torch.float32, memory_budget=budget)
    assert operator.keeps_matrix == (what == "stored")
    v = torch.randn(n, s, generator=generator)
    rows = torch.arange(500)
    call = {"matmul": lambda: operator.matmul(v), "stored": lambda: operator.matmul(v)}.get(
        what, lambda: operator.rows_matmul(rows, v)
    )
    peak = peak_bytes(call)
    assert 0 < peak <= budget
    if what != "stored":
        assert budget < 4 * n * n  # the matrix itself would not have fitted


def test_what_cannot_fit_raises_before_it_allocates(x):
    operator = KernelOperator(make_kernel(), x, 0.1, memory_budget=10_000)
    rows = torch.arange(601)

    def ask():
        with pytest.raises(MemoryBudgetError, match="memory_budget"):
            operator.block(rows, rows)
        with pytest.raises(MemoryBudgetError, match="memory_budget"):
            operator.dense()
        with pytest.raises(MemoryBudgetError, match="memory_budget"):
            operator.cross_block(rows, rows)

    assert peak_bytes(ask) < 10_000


def test_a_later_change_of_the_kernel_changes_nothing(x):
    kernel = make_kernel()
    operator = KernelOperator(kernel, x, 0.1)
    before = operator.block(torch.arange(4), torch.arange(4)).clone()
    kernel.outputscale = 9.0
    assert torch.equal(operator.block(torch.arange(4), torch.arange(4)), before)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"x": torch.zeros(5)}, ShapeError),
        ({"x": torch.zeros(0, 3)}, ShapeError),
        ({"x": [[1.0]]}, DtypeError),
        ({"x": torch.tensor([[float("nan")] * 3])}, InputError),
        ({"noise_variance": -0.1}, InputError),
        ({"noise_variance": float("nan")}, InputError),
        ({"noise_variance": torch.ones(4)}, ShapeError),
        ({"dtype": torch.float16}, DtypeError),
        ({"memory_budget": 0}, InputError),
    ],
)
def test_bad_arguments(x, change, error):
    arguments = {"x": x, "noise_variance": 0.1, **change}
    with pytest.raises(error):
        KernelOperator(make_kernel(), arguments.pop("x"), arguments.pop("noise_variance"), **arguments)


def test_products_check_their_columns(x):
    operator = KernelOperator(make_kernel(), x, 0.1)
    with pytest.raises(ShapeError):
        operator.matmul(torch.ones(3, 1, dtype=torch.float64))
    with pytest.raises(DtypeError):
        operator.matmul(torch.ones(601, 1))


@pytest.mark.slow  # a reading of the process decides it
@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_process_itself_grows_no_more_than_the_budget():
    """The meter above sees torch's memory; this one sees all, a C++ engine's too, in a process of its own."""
    code = """
import pathlib, re, gpytorch, torch
from sggp.operators import KernelOperator

def high_water():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

generator = torch.Generator().manual_seed(0)
n, budget = 9000, 64 * 2**20
x = torch.randn(n, 6, generator=generator)
kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5))
operator = KernelOperator(kernel, x, 0.1, memory_budget=budget)
assert not operator.keeps_matrix and 4 * n * n > 4 * budget
v = torch.randn(n, 8, generator=generator)
operator.rows_matmul(torch.arange(10), v)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = high_water()
operator.matmul(v)
print(high_water() - before, budget)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, budget = map(int, done.stdout.split())
    assert 0 < grown <= budget


def test_float32_products_see_float32_inputs_and_wide_ones_the_inputs_as_given(generator):
    """The matrix of rounded inputs differs by less than their rounding; float64 products do not see it."""
    x = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    x[0] = 40.0  # far out, where rounding moves most
    x[1] = x[0] + 1e-9
    operator = KernelOperator(make_kernel(3), x, 0.1, dtype=torch.float32)
    assert operator.rounds_inputs
    exact = KernelOperator(make_kernel(3), x, 0.1).dense()
    v = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(operator.matmul_wide(v), exact @ v, rtol=0, atol=1e-11)
    rows, before = torch.tensor([1, 0, 200]), operator.entries_evaluated
    torch.testing.assert_close(operator.rows_matmul_wide(rows, v), (exact @ v)[rows], rtol=0, atol=1e-11)
    assert operator.entries_evaluated - before == 3 * 300
    identity = torch.eye(300, dtype=torch.float32)
    narrow = torch.cat([operator.matmul(part) for part in identity.split(100, dim=1)], 1)
    allowed = 3e-7 + 6e-8 * (x.norm(dim=1)[:, None] + x.norm(dim=1))
    assert bool(((narrow.double() - exact).abs() <= allowed).all())
    for same in (x.float(), x.float().double()):
        assert not KernelOperator(make_kernel(3), same, 0.1, dtype=torch.float32).rounds_inputs
    assert not KernelOperator(make_kernel(3), x, 0.1).rounds_inputs


def test_residuals_are_those_of_the_inputs_as_given(generator):
    """Noise so small that the rounding of inputs shows in the residual: what is said is the truth."""
    x = 3 * torch.randn(400, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(make_kernel(2), x, 1e-6, dtype=torch.float32)
    rhs = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    solution = ConjugateGradients().solve(operator, rhs, tolerance=1e-2, generator=0)
    exact = KernelOperator(make_kernel(2), x, 1e-6).dense()
    true = (rhs - exact @ solution.x).norm(dim=0) / rhs.norm(dim=0)
    torch.testing.assert_close(true, solution.residual, rtol=1e-3, atol=0)
    assert bool((true <= 1e-2).all())


class Waves(gpytorch.kernels.Kernel):
    """cos(9(x − z)) of one column, which no engine knows."""

    def forward(self, x1, x2, diag=False, **params):
        difference = x1[..., 0] - x2[..., 0] if diag else x1[..., 0][..., :, None] - x2[..., 0][..., None, :]
        return torch.cos(9.0 * difference)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("further", ["alone", "sum", "product"])
@pytest.mark.parametrize("kind", [gpytorch.kernels.PeriodicKernel, Waves])
def test_float32_products_of_other_kernels_see_the_inputs_as_given(generator, kind, further, single):
    """Hours since 1970: only entries are narrowed, whatever the parameters are in and the kernel is joined to."""
    base, near = kind(), 40 * torch.rand(60, 1, generator=generator, dtype=torch.float64)
    base = base if single else base.double()
    kernel = {"alone": base, "sum": base + make_kernel(1), "product": base * make_kernel(1)}[further]
    x = near + 4e5
    expected = KernelOperator(kernel, x - 4e5, 0.0).dense()
    found = KernelOperator(kernel, x, 0.0, dtype=torch.float32).matmul(torch.eye(60))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 * float(expected.max()))

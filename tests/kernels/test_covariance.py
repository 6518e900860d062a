"""Every kernel of the catalogue, evaluated by `as_covariance`, against textbook formulas in extended precision."""

from __future__ import annotations

import copy
import pickle
import threading

import gpytorch.kernels as gk
import numpy as np
import pytest
import torch

from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError, UnsupportedKernel
from sggp.kernels import Covariance, as_covariance
from sggp.kernels.generic import GenericCovariance
from tests.catalogue import GENERIC_ROWS, KERNELS, STATIONARY_ROWS, KernelRow, real_rows
from tests.oracles import kernel_matrix

SMALL_BUDGET = {"reference": 2**16, "chosen": 2**20}  # several tiles; the C++ engine has larger ones

every_kernel = pytest.mark.parametrize("row", KERNELS, ids=str)
every_stationary = pytest.mark.parametrize("row", STATIONARY_ROWS, ids=str)


def tolerance(row: KernelRow, dtype: torch.dtype) -> float:
    return row.tolerance[0] if dtype == torch.float32 else row.tolerance[1]


def worst(block: torch.Tensor, exact: np.ndarray, scale: float) -> float:
    return float(np.abs(block.detach().double().numpy() - exact).max() / scale)


def scale_of(row: KernelRow, x: torch.Tensor) -> float:
    return float(np.diag(kernel_matrix(row.make(x.shape[1]), x, x)).max())


@every_kernel
@pytest.mark.parametrize("d", [1, 26])
def test_block_is_the_formula(row, d, dtype, engine, generator):
    x, z = row.rows(37, d, dtype, generator), row.rows(23, d, dtype, generator)
    kernel = row.make(d).to(dtype)
    covariance = as_covariance(kernel, dtype=dtype)
    assert isinstance(covariance, Covariance)
    block = covariance.block(x, z)
    assert block.dtype == dtype
    assert worst(block, kernel_matrix(kernel, x, z), scale_of(row, x)) <= tolerance(row, dtype)


@every_stationary
@pytest.mark.parametrize("d", [2, 9])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_near_duplicates_and_far_off_centre_data_lose_nothing(row, d, shift, dtype, engine, generator):
    x = (real_rows(30, d, torch.float64, generator) + shift).to(dtype)
    nudge = 1e-7 * real_rows(30, d, torch.float64, generator)
    z = torch.cat([x, (x.double() + nudge).to(dtype), (x.double() + 1e4 * nudge).to(dtype)])
    kernel = row.make(d)
    assert worst(
        as_covariance(kernel).block(x, z), kernel_matrix(kernel, x, z), scale_of(row, x)
    ) <= tolerance(row, dtype)


@every_stationary
def test_two_clusters_far_apart_are_both_exact(row, dtype, engine, generator):
    x = real_rows(24, 6, torch.float64, generator)
    x[12:] += 3e5
    x = x.to(dtype)
    kernel = row.make(6)
    assert worst(as_covariance(kernel).block(x), kernel_matrix(kernel, x, x), scale_of(row, x)) <= tolerance(
        row, dtype
    )


@every_kernel
def test_gram_matrix_is_symmetric_positive_and_has_its_diagonal(row, dtype, engine, generator):
    x = row.rows(40, 6, dtype, generator)
    covariance = as_covariance(row.make(6), dtype=dtype)
    gram = covariance.block(x).double()
    exact = kernel_matrix(row.make(6), x, x)
    size = np.diag(exact).max()
    assert (gram - gram.T).abs().max() <= 2 * torch.finfo(dtype).eps * size
    assert torch.linalg.eigvalsh(gram).min() >= -40 * tolerance(row, dtype) * size
    diagonal = covariance.diagonal(x)
    assert diagonal.dtype == dtype
    assert diagonal.shape == (40,)
    np.testing.assert_allclose(diagonal.double().numpy(), np.diag(exact), atol=tolerance(row, dtype) * size)


@pytest.mark.parametrize("row", [r for r in STATIONARY_ROWS if r.embeds], ids=str)
def test_diagonal_is_exactly_the_scale(row, dtype, engine, generator):
    x = real_rows(50, 7, dtype, generator) * 30 + 1e3
    covariance = as_covariance(row.make(7))
    assert torch.equal(covariance.block(x).diagonal(), covariance.diagonal(x))
    assert covariance.diagonal(x)[0] == torch.tensor(covariance.scale, dtype=dtype)


@every_kernel
@pytest.mark.parametrize("columns", [1, 17])
def test_matmul_is_the_dense_product_whatever_the_tiles(row, columns, dtype, engine, generator):
    x, z = row.rows(61, 8, dtype, generator), row.rows(45, 8, dtype, generator)
    v = torch.randn(45, columns, dtype=dtype, generator=generator)
    kernel = row.make(8).to(dtype)
    covariance = as_covariance(kernel, dtype=dtype)
    exact = kernel_matrix(kernel, x, z) @ v.double().numpy()
    bound = 4 * tolerance(row, dtype) * scale_of(row, x) * v.double().abs().sum(0).max().item()
    for budget in (SMALL_BUDGET[engine], 2**28):
        product = covariance.matmul(x, z, v, memory_budget=budget)
        assert product.dtype == dtype
        assert product.shape == (61, columns)
        assert np.abs(product.double().numpy() - exact).max() <= bound
    vector = covariance.matmul(x, z, v[:, 0])
    assert vector.shape == (61,)
    torch.testing.assert_close(vector, covariance.matmul(x, z, v)[:, 0], rtol=1e-4, atol=bound)


@every_kernel
def test_small_blocks_are_float64_gram_matrices(row, engine, generator):
    x = row.rows(30, 6, torch.float64, generator).reshape(5, 6, 6)
    kernel = row.make(6).double()
    blocks = as_covariance(kernel).small_blocks(x)
    assert blocks.dtype == torch.float64
    assert blocks.shape == (5, 6, 6)
    for i in range(5):
        assert worst(blocks[i], kernel_matrix(kernel, x[i], x[i]), scale_of(row, x[i])) <= tolerance(
            row, torch.float64
        )


@every_kernel
def test_frozen_pickles_and_copies(row, generator):
    kernel = row.make(4)
    covariance = as_covariance(kernel)
    x = row.rows(9, 4, torch.float64, generator)
    before = covariance.block(x)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(1.0)
    assert torch.equal(covariance.block(x), before)
    assert torch.equal(pickle.loads(pickle.dumps(covariance)).block(x), before)
    assert torch.equal(copy.deepcopy(covariance).block(x), before)
    assert not before.requires_grad
    assert as_covariance(covariance) is covariance


@every_kernel
def test_prepared_points_give_the_same_entries(row, dtype, generator):
    x, z = row.rows(20, 5, dtype, generator), row.rows(8, 5, dtype, generator)
    covariance = as_covariance(row.make(5), dtype=dtype)
    points = covariance.prepare(x)
    assert len(points) == 20
    assert points.shape == (20, 5)
    assert torch.equal(points.raw, x)
    rows = torch.tensor([3, 0, 19])
    close = {"rtol": 0.0, "atol": 8 * torch.finfo(dtype).eps * covariance.scale}
    torch.testing.assert_close(
        covariance.block(points[rows], points[2:7]), covariance.block(x)[rows, 2:7], **close
    )
    torch.testing.assert_close(covariance.block(z, points), covariance.block(z, x), **close)
    torch.testing.assert_close(covariance.block(points, z), covariance.block(z, x).T, **close)
    torch.testing.assert_close(
        covariance.block(points, covariance.prepare(z)), covariance.block(x, z), **close
    )
    torch.testing.assert_close(
        covariance.block(points.to("cpu")[[1, 2]]), covariance.block(points[1:3]), **close
    )


@pytest.mark.parametrize("row", KERNELS, ids=str)
def test_embedding_orders_pairs_as_the_kernel_does(row, generator):
    x = row.rows(25, 5, torch.float64, generator)
    covariance = as_covariance(row.make(5))
    embedding = covariance.embedding(x)
    if not row.embeds:
        assert embedding is None
        return
    assert embedding.shape[0] == 25
    far = torch.cdist(embedding[:1], embedding)[0].argsort()
    near = covariance.block(x[:1], x)[0].argsort(descending=True)
    assert torch.equal(far, near)


@pytest.mark.parametrize(
    "row", [r for r in KERNELS if r.smooth and r.name not in ("matern12", "sum")], ids=str
)
def test_gradients_in_rows_and_columns(row, engine, generator):
    x = real_rows(4, 3, torch.float64, generator).requires_grad_()
    z = torch.cat([x.detach()[:2], real_rows(1, 3, torch.float64, generator)]).requires_grad_()
    v = torch.randn(3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    fixed = torch.randn(4, 2, dtype=torch.float64, generator=generator)
    covariance = as_covariance(row.make(3))
    assert torch.autograd.gradcheck(covariance.block, (x, z))
    assert torch.autograd.gradcheck(
        lambda x, z, v: covariance.matmul(x, z, v, memory_budget=SMALL_BUDGET[engine]), (x, z, v)
    )
    assert torch.autograd.gradcheck(lambda x: covariance.matmul(x, None, fixed), (x,))
    assert torch.autograd.gradcheck(lambda v: covariance.matmul(x.detach(), z.detach(), v), (v,))


def test_matern12_gradient_is_zero_at_coincident_points_and_right_elsewhere(engine, generator):
    x = real_rows(4, 3, torch.float64, generator)
    z = torch.cat([x[:2], real_rows(3, 3, torch.float64, generator)])
    covariance = as_covariance(gk.MaternKernel(0.5))
    apart = z[2:].clone().requires_grad_()
    assert torch.autograd.gradcheck(covariance.block, (x.clone().requires_grad_(), apart))
    x = x.requires_grad_()
    covariance.block(x, x.detach()).diagonal().sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_tanimoto_gradients_in_positive_rows(generator):
    from sggp.kernels import TanimotoDotProduct, TanimotoMinMax

    x = torch.rand(4, 3, dtype=torch.float64, generator=generator).requires_grad_()
    z = torch.rand(3, 3, dtype=torch.float64, generator=generator).requires_grad_()
    for kernel in (TanimotoMinMax(), TanimotoDotProduct()):
        covariance = as_covariance(kernel)
        assert torch.autograd.gradcheck(lambda x, z, c=covariance: c.block(x, z), (x, z))
        empty = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        covariance.block(empty).sum().backward()
        assert torch.isfinite(empty.grad).all()


def test_scale_is_the_largest_diagonal_entry(generator):
    for row in (*STATIONARY_ROWS, *GENERIC_ROWS):
        covariance = as_covariance(row.make(3))
        x = real_rows(50, 3, torch.float64, generator)
        exact = np.diag(kernel_matrix(row.make(3), x, x)).max()
        if row.stationary or row.name == "periodic":
            assert covariance.scale == pytest.approx(exact, rel=1e-6)
        else:
            assert 0 < covariance.scale < 100 * exact


def test_dtype_of_integer_rows(generator):
    counts = torch.randint(0, 4, (6, 5), generator=generator)
    kernel = gk.ScaleKernel(gk.RBFKernel())
    assert as_covariance(kernel).block(counts).dtype == torch.float32
    assert as_covariance(kernel, dtype=torch.float64).block(counts).dtype == torch.float64
    product = as_covariance(kernel).matmul(counts, None, torch.ones(6, 1, dtype=torch.float64))
    assert product.dtype == torch.float64
    exact = kernel_matrix(kernel, counts, counts).sum(1, keepdims=True)
    np.testing.assert_allclose(product.numpy(), exact, rtol=1e-13)


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel",
    [
        gk.RBFKernel(batch_shape=torch.Size([2])),
        gk.ScaleKernel(gk.RBFKernel(), batch_shape=torch.Size([2])),
        gk.RBFKernel() + gk.RBFKernel(batch_shape=torch.Size([2])),
        gk.RBFKernelGrad(),
        gk.MultitaskKernel(gk.RBFKernel(), num_tasks=2),
        "rbf",
        None,
    ],
    ids=lambda k: type(k).__name__,
)
def test_structures_without_one_matrix_are_refused(kernel):
    with pytest.raises(UnsupportedKernel, match="expected"):
        as_covariance(kernel)


def test_kernels_that_are_not_tile_safe_are_refused(generator):
    class Company(gk.Kernel):
        """An entry depends on the other rows of the call."""

        def forward(self, x1, x2, diag=False, **params):
            mean = x1.mean(-2, keepdim=True)
            return (x1 - mean) @ (x2 - mean).transpose(-1, -2)

    class Nugget(gk.RBFKernel):
        """A row and itself is another pair than two equal rows."""

        def forward(self, x1, x2, diag=False, **params):
            values = super().forward(x1, x2, diag=diag, **params)
            if diag or not torch.equal(x1, x2):
                return values
            return values + torch.eye(len(x1), dtype=x1.dtype)

    x = real_rows(10, 2, torch.float64, generator)
    for kernel in (Company(), Nugget()):
        with pytest.raises(UnsupportedKernel, match="not tile-safe"):
            as_covariance(kernel).block(x)
    with pytest.raises(UnsupportedKernel, match="not tile-safe"):
        as_covariance(gk.RFFKernel(num_samples=5)).matmul(x, None, x)


def test_a_diagonal_that_is_not_that_of_the_matrix_is_refused(generator):
    class Doubled(gk.RBFKernel):
        """Forgets its factor in the diagonal, as kernels of one's own do."""

        def forward(self, x1, x2, diag=False, **params):
            values = super().forward(x1, x2, diag=diag, **params)
            return values if diag else 2 * values

    x = real_rows(10, 2, torch.float64, generator)
    with pytest.raises(UnsupportedKernel, match="gives 1 where its matrix has 2 on the diagonal"):
        as_covariance(Doubled()).diagonal(x)


def test_subclass_that_evaluates_otherwise_is_not_taken_for_its_parent(generator):
    class Halved(gk.RBFKernel):
        def forward(self, x1, x2, diag=False, **params):
            return super().forward(x1, x2, diag=diag, **params) / 2

    class Renamed(gk.RBFKernel):
        """Nothing but another constructor."""

        def __init__(self):
            super().__init__()

    x = real_rows(6, 2, torch.float64, generator)
    halved = as_covariance(gk.ScaleKernel(Halved()))
    assert isinstance(halved, GenericCovariance)
    exact = kernel_matrix(gk.ScaleKernel(gk.RBFKernel()), x, x) / 2
    np.testing.assert_allclose(halved.block(x).numpy(), exact, rtol=1e-6)
    assert not isinstance(as_covariance(Renamed()), GenericCovariance)


def test_bad_rows_and_columns_are_typed_errors(generator):
    covariance = as_covariance(gk.RBFKernel(ard_num_dims=3))
    x = real_rows(6, 3, torch.float32, generator)
    with pytest.raises(ShapeError, match=r"\(n, d\)"):
        covariance.block(x[0])
    with pytest.raises(ShapeError, match="3 length scales"):
        covariance.block(x[:, :2])
    with pytest.raises(ShapeError, match="dimension"):
        as_covariance(gk.RBFKernel()).block(x, x[:, :2])
    with pytest.raises(ShapeError, match="expected"):
        covariance.matmul(x, None, torch.ones(5, 1))
    with pytest.raises(ShapeError, match=r"\(b, m, d\)"):
        covariance.small_blocks(x)
    with pytest.raises(ShapeError, match="column 5"):
        as_covariance(gk.RBFKernel(active_dims=(5,))).block(x)
    with pytest.raises(DtypeError, match="expected a torch"):
        covariance.block(x.numpy())
    with pytest.raises(DtypeError, match="float16"):
        covariance.block(x.half())
    with pytest.raises(DtypeError, match="dtype"):
        covariance.matmul(x, None, torch.ones(6, 1, dtype=torch.int64))
    with pytest.raises(DtypeError, match="working precision"):
        as_covariance(gk.RBFKernel(), dtype=torch.float16)
    with pytest.raises(InputError, match="NaN"):
        covariance.block(torch.full((2, 3), float("nan")))


@pytest.mark.parametrize("kernel", [gk.RBFKernel(), gk.PolynomialKernel(2)], ids=lambda k: type(k).__name__)
def test_budget_too_small_for_one_tile_is_refused(kernel, engine, generator):
    x = real_rows(200, 3, torch.float64, generator)
    with pytest.raises(MemoryBudgetError, match="memory_budget"):
        as_covariance(kernel).matmul(x, None, x, memory_budget=100)


def test_empty_sets_give_empty_results(engine):
    covariance = as_covariance(gk.RBFKernel())
    x, none = torch.ones(3, 2), torch.ones(0, 2)
    assert covariance.block(x, none).shape == (3, 0)
    assert covariance.block(none, x).shape == (0, 3)
    assert torch.equal(covariance.matmul(x, none, torch.ones(0, 4)), torch.zeros(3, 4))
    assert covariance.small_blocks(torch.ones(0, 4, 2)).shape == (0, 4, 4)


def test_generic_kernels_are_evaluated_by_one_copy_per_thread(generator):
    covariance = as_covariance(gk.PolynomialKernel(2))
    x = real_rows(40, 2, torch.float64, generator)
    expected = covariance.block(x)
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(covariance.block(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)

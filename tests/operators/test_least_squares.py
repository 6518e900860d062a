"""The stochastic gradient of least squares: against autograd of the stated loss, and in expectation."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError
from sggp.kernels import TanimotoMinMax
from sggp.operators import InducingOperator, KernelOperator, LeastSquaresOperator
from tests.oracles import kernel_matrix
from tests.solvers.dense import DenseOperator

N, M, D, S = 60, 30, 3, 2
TILES = 40_000  # bytes: too few to keep an (N, N) matrix
TIGHT = 13_000  # and an (N, M) one in either precision


class Unfeatured(gpytorch.kernels.RBFKernel):
    """A kernel type without registered random features."""

    def forward(self, x1, x2, diag=False, **params):
        return super().forward(x1, x2, diag=diag, **params)


def matern() -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=D)).double()
    kernel.outputscale = 0.7
    kernel.base_kernel.lengthscale = torch.linspace(0.8, 1.5, D, dtype=torch.float64)
    return kernel


def dense(kernel, a, b) -> torch.Tensor:
    return torch.from_numpy(kernel_matrix(kernel, a, b))


def normal(generator, *shape) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def case(generator):
    """A kernel, x and per-point noise."""
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    noise = torch.rand(N, generator=generator, dtype=torch.float64) + 0.1
    return matern(), x, noise


def loss_gradient(design, penalty, noise, target, u, delta=None):
    """∇ of ½(t − Du)ᵀΣ⁻¹(t − Du) + ½uᵀPu − uᵀPδ, by autograd."""
    u = u.clone().requires_grad_(True)
    loss = 0.5 * ((target - design @ u).square() / noise[:, None]).sum() + 0.5 * (u * (penalty @ u)).sum()
    if delta is not None:
        loss = loss - (u * (penalty @ delta)).sum()
    return torch.autograd.grad(loss, u)[0]


@pytest.mark.parametrize("delta", ["zero", "noise", "any"])
@pytest.mark.parametrize("budget", [2**32, TILES], ids=["kept", "tiles"])
def test_kernel_gradient_is_that_of_the_loss(case, delta, budget, generator):
    """All observations and the exact penalty: the gradient of the loss with the target δ, the same for every δ."""
    kernel, x, noise = case
    operator = KernelOperator(kernel, x, noise, memory_budget=budget)
    k = dense(kernel, x, x)
    r, u, eps, other = (normal(generator, N, S) for _ in range(4))
    anchor = {"zero": torch.zeros_like(u), "noise": eps / noise[:, None], "any": other}[delta]
    target = operator.anchored_target(anchor, r)
    gradient, gap = operator.data_gradient(torch.arange(N), u, anchor, target)
    got = gradient + k @ (u - anchor)
    wanted = loss_gradient(k, k, noise, r - noise[:, None] * anchor, u, anchor)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got, loss_gradient(k, k, noise, r, u), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gap, k @ u + noise[:, None] * u - r, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("delta", ["zero", "any"])
@pytest.mark.parametrize("budget", [2**32, TIGHT], ids=["kept", "tiles"])
def test_inducing_gradient_is_that_of_the_loss(case, delta, budget, generator):
    kernel, x, noise = case
    z = x[:M] + 0.1
    operator = InducingOperator(kernel, x, z, noise, memory_budget=budget)
    penalty = dense(kernel, z, z)
    y, u, other = normal(generator, N, S), normal(generator, M, S), normal(generator, M, S)
    anchor = torch.zeros_like(u) if delta == "zero" else other
    target = operator.anchored_target(anchor, operator.normal_rhs(y))
    gradient, gap = operator.data_gradient(torch.arange(N), u, anchor, target)
    got = gradient + penalty @ (u - anchor)  # the anchor's own penalty is in its target already
    wanted = loss_gradient(dense(kernel, x, z), penalty, noise, y, u)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-8)
    assert gap is None


def z_scores(draw, wanted, replicates: int) -> torch.Tensor:
    draws = torch.stack([draw() for _ in range(replicates)])
    return (draws.mean(0) - wanted) / (draws.std(0) / replicates**0.5)


@pytest.mark.parametrize("kind", ["features", "columns", "integer"])
def test_the_penalty_estimate_has_no_bias(kind, generator):
    if kind == "integer":
        kernel = TanimotoMinMax()
        x = torch.poisson(torch.full((25, 12), 0.5), generator=generator).to(torch.uint8)
    else:
        kernel = matern() if kind == "features" else Unfeatured().double()
        x = normal(generator, 25, D) + 50.0
    operator = KernelOperator(kernel, x, 0.1, dtype=torch.float64)
    assert operator.draws_features is (kind != "columns")
    u = normal(generator, 25, 1)
    k = operator.dense() - 0.1 * torch.eye(25, dtype=torch.float64)
    each, replicates = (8, 1000) if kind == "columns" else (32, 250)  # of 25 columns
    score = z_scores(lambda: operator.penalty_estimate(u, each, generator)[:, 0], (k @ u)[:, 0], replicates)
    assert float(score.abs().max()) < 4.5
    assert float(score.square().mean()) < 3  # all from the same draws, so not independent


@pytest.mark.parametrize("inducing", [False, True])
def test_the_gradient_estimate_has_no_bias(case, inducing, generator):
    kernel, x, noise = case
    m = M if inducing else N
    u, anchor = normal(generator, m, 1), normal(generator, m, 1)
    y = normal(generator, N, 1)
    if inducing:
        operator = InducingOperator(kernel, x, x[:M], noise)
        r, design = operator.normal_rhs(y), dense(kernel, x, x[:M])
        wanted = loss_gradient(design, dense(kernel, x[:M], x[:M]), noise, y, u)
    else:
        operator, r, k = KernelOperator(kernel, x, noise), y, dense(kernel, x, x)
        wanted = loss_gradient(k, k, noise, y, u)
    target = operator.anchored_target(anchor, r)

    def draw():
        rows = torch.randperm(N, generator=generator)[:20]
        data = operator.data_gradient(rows, u, anchor, target)[0]
        return (data + operator.penalty_estimate(u - anchor, 32, generator))[:, 0]

    score = z_scores(draw, wanted[:, 0], 400)
    assert float(score.abs().max()) < 4.5
    assert float(score.square().mean()) < 3


def test_noise_at_the_solution_falls_with_better_anchors(case, generator):
    """Plain target > low-variance target δ = Σ⁻¹ε > δ = the solution, where nothing is left.

    The second wins over the first where data are dense: the function is then known better than one noisy value of it.
    """
    kernel, x, noise = case
    x = 0.2 * x
    operator = KernelOperator(kernel, x, noise)
    h = dense(kernel, x, x) + torch.diag(noise)
    eps = noise.sqrt()[:, None] * normal(generator, N, 1)
    prior = torch.linalg.cholesky(dense(kernel, x, x) + 1e-10 * torch.eye(N, dtype=torch.float64))
    r = prior @ normal(generator, N, 1) + eps
    solution = torch.linalg.solve(h, r)
    anchors = [torch.zeros_like(r), eps / noise[:, None], solution]
    spread = []
    for anchor in anchors:
        target, total = operator.anchored_target(anchor, r), 0.0
        for _ in range(200):
            rows = torch.randperm(N, generator=generator)[:6]
            gradient = operator.data_gradient(rows, solution, anchor, target)[0]
            gradient += operator.penalty_estimate(solution - anchor, 20, generator)
            total += float(gradient.square().sum())
        spread.append((total / 200) ** 0.5)
    assert spread[0] > 2 * spread[1]
    assert spread[2] < 1e-10 * spread[1]


def test_inducing_operator_is_the_normal_equation(case, dtype, generator):
    kernel, x, noise = case
    z = x[:M] + 0.1
    design = dense(kernel, x, z)
    exact = design.T @ (design / noise[:, None]) + dense(kernel, z, z)
    v, y = normal(generator, M, S), normal(generator, N, S)
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    tight = {"rtol": 1e-10, "atol": 1e-10}
    for budget in (2**32, TIGHT):
        operator = InducingOperator(kernel, x, z, noise, dtype=dtype, memory_budget=budget)
        assert operator.keeps_matrix is (budget > TIGHT)
        product = operator.matmul(v.to(dtype))
        assert product.dtype == dtype
        assert operator.entries_evaluated == operator.entries_per_epoch == M * (N + M)
        torch.testing.assert_close(product.double(), exact @ v, **close)
        torch.testing.assert_close(operator.diagonal().double(), exact.diagonal(), **close)
        torch.testing.assert_close(operator.matmul_wide(v), exact @ v, **tight)
        torch.testing.assert_close(operator.dense(), exact, **tight)
        torch.testing.assert_close(operator.normal_rhs(y), design.T @ (y / noise[:, None]), **tight)
        torch.testing.assert_close(operator.normal_rhs(y[:, 0]), operator.normal_rhs(y)[:, 0], **tight)
        some = torch.tensor([3, 0, 9])
        torch.testing.assert_close(operator.design_norms(some), design[some].square().sum(1), **close)
        torch.testing.assert_close(
            operator.cross_block(some, some[:2]), dense(kernel, z, z)[some][:, some[:2]]
        )
        assert isinstance(operator, LeastSquaresOperator)


def test_observations_gathered_at_their_centres(case):
    """By the formula, each observation at the centre it is most like; with one at each centre it is A itself."""
    kernel, x, noise = case
    z = x[:M]
    operator = InducingOperator(kernel, x, z, noise)
    design, penalty = dense(kernel, x, z), dense(kernel, z, z)
    nearest = torch.nn.functional.one_hot(design.argmax(1), M).double()
    wanted = penalty @ torch.diag(nearest.T @ (1 / noise)) @ penalty + penalty
    torch.testing.assert_close(operator.gathered(), wanted, rtol=1e-10, atol=1e-10)
    own = InducingOperator(kernel, z, z, noise[:M])
    torch.testing.assert_close(own.gathered(), own.dense(), rtol=1e-10, atol=1e-10)
    u = penalty[:, :2].contiguous()
    torch.testing.assert_close(operator.penalty_product(u), penalty @ u)
    some = torch.tensor([3, 0, 9])
    torch.testing.assert_close(operator.design_rows(some), design[some])


def test_kernel_operator_offers_the_protocol(case):
    kernel, x, noise = case
    operator = KernelOperator(kernel, x, noise)
    assert isinstance(operator, LeastSquaresOperator)
    assert not isinstance(DenseOperator(torch.eye(3)), LeastSquaresOperator)
    norms = dense(kernel, x, x).square().sum(1)
    torch.testing.assert_close(operator.design_norms(torch.arange(N)), norms)


def test_later_changes_to_the_kernel_are_not_seen(case, generator):
    kernel, x, noise = case
    operator = KernelOperator(kernel, x, noise)
    u = normal(generator, N, 1)
    before = operator.penalty_estimate(u, 50, torch.Generator().manual_seed(1))
    kernel.outputscale = 9.0
    after = operator.penalty_estimate(u, 50, torch.Generator().manual_seed(1))
    assert torch.equal(before, after)


def test_misuse_is_told(case):
    kernel, x, noise = case
    counts = torch.ones(5, D, dtype=torch.uint8)
    with pytest.raises(ShapeError, match="z must be"):
        InducingOperator(kernel, x, x[:3, :2], noise)
    with pytest.raises(DtypeError, match="integer exactly where"):
        InducingOperator(TanimotoMinMax(), counts, counts.float(), noise[:5])
    with pytest.raises(InputError, match="at least one is zero"):
        InducingOperator(kernel, x, x[:3], 0.0)
    with pytest.raises(InputError, match="memory_budget"):
        InducingOperator(kernel, x, x[:3], noise, memory_budget=0)
    with pytest.raises(MemoryBudgetError, match="dense"):
        InducingOperator(kernel, x, x[:M], noise, memory_budget=2000).dense()
    operator = InducingOperator(kernel, x, x[:M], noise)
    with pytest.raises(ShapeError, match="targets"):
        operator.normal_rhs(torch.ones(M, 1))
    with pytest.raises(ShapeError, match="right-hand side"):
        operator.matmul(torch.ones(N, 1, dtype=torch.float64))
    with pytest.raises(DtypeError, match="right-hand side"):
        operator.matmul(torch.ones(M, 1))
    rows = torch.arange(4)
    noiseless = KernelOperator(kernel, x, 0.0)
    zero = torch.zeros(N, 1, dtype=torch.float64)
    with pytest.raises(InputError, match="at least one is zero"):
        noiseless.data_gradient(rows, zero, zero, zero)

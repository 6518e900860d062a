"""Stochastic Lanczos quadrature against dense factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel

from sggp.datasets import uci, uci_hyperparameters
from sggp.errors import InputError, UnsupportedOperator
from sggp.hyperparameters import exact_log_marginal_likelihood, log_marginal_likelihood
from sggp.hyperparameters.iterative.quadrature import trace_of_log
from sggp.hyperparameters.merged import MergedData
from sggp.kernels import TanimotoMinMax
from sggp.preconditioners import (
    LowRankPlusNeighbour,
    NearestNeighbour,
    Nystrom,
    PivotedCholesky,
    Preconditioner,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def table(n=300, repeats=0, seed=0):
    g = seeded(seed)
    x = torch.rand(n, 3, generator=g, dtype=torch.float64) * 2
    if repeats:
        x = torch.cat([x, x[:repeats], x[: repeats // 2]])
    return x, torch.sin(3 * x[:, 0]) + x[:, 1] + 0.1 * torch.randn(len(x), generator=g, dtype=torch.float64)


def matern(lengthscale=0.7):
    kernel = ScaleKernel(MaternKernel(nu=1.5)).double()
    kernel.base_kernel.lengthscale, kernel.outputscale = lengthscale, 1.4
    return kernel


# P, and how far off in nats a run with it may be: the better P, the less is left to estimate
PRECONDITIONERS = [
    ("auto", 0.01),
    (None, 5.0),
    (NearestNeighbour(10), 0.5),
    (LowRankPlusNeighbour(40, 8), 1.0),
    (Nystrom(60), 5.0),
    (PivotedCholesky(60), 5.0),
]


@pytest.mark.parametrize(("preconditioner", "bar"), PRECONDITIONERS, ids=repr)
def test_value_is_within_its_standard_error(preconditioner, bar):
    x, y = table()
    exact = exact_log_marginal_likelihood(matern(), x, y, noise_variance=0.02, mean=0.4)
    found = log_marginal_likelihood(
        matern(),
        x,
        y,
        noise_variance=0.02,
        mean=0.4,
        preconditioner=preconditioner,
        max_steps=150,
        generator=0,
    )
    assert abs(found.value - exact) < 4 * found.standard_error + 0.5 * found.quadratic_bound + 0.01
    assert found.standard_error < bar
    assert found.quadratic_bound < 0.2
    assert found.num_probes == 16


@pytest.mark.parametrize("repeats", [0, 40])
@pytest.mark.parametrize("noise", ["shared", "per row"])
@pytest.mark.parametrize("targets", [1, 2])
def test_repeats_noise_and_targets(repeats, noise, targets):
    x, y = table(200, repeats)
    y = torch.stack([y, torch.cos(x[:, 2])][:targets], dim=1)
    variance = 0.05 if noise == "shared" else torch.rand(len(x), generator=seeded(3)).double() * 0.1 + 0.01
    exact = exact_log_marginal_likelihood(matern(), x, y, noise_variance=variance, mean=0.2)
    found = log_marginal_likelihood(matern(), x, y, noise_variance=variance, mean=0.2, generator=0)
    assert abs(found.value - exact) < 4 * found.standard_error + 0.5 * found.quadratic_bound + 0.01
    assert found.standard_error < 0.5


def test_merging_leaves_the_density_as_it_is():
    """Against the log density of all rows: the merged one plus `within`, exactly."""
    x, y = table(30, 12)
    for noise in (torch.tensor(0.05, dtype=torch.float64), torch.rand(len(x)).double() + 0.1):
        data = MergedData(x, y[:, None])
        rows = data.row_noise(noise)
        merged = exact_log_marginal_likelihood(
            matern(), data.rows, data.means(data.y, rows), noise_variance=data.groups.noise(rows)
        )
        whole = exact_log_marginal_likelihood(matern(), x, y, noise_variance=noise)
        assert merged + float(data.within(rows)) == pytest.approx(whole, abs=1e-8)
        assert abs(float(data.within(rows))) > 1
    shared = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    within = data.within(shared)
    assert float(within.detach()) == pytest.approx(
        float(data.within(data.row_noise(shared.detach()))), abs=1e-9
    )
    within.backward()
    step = 1e-6
    around = [float(data.within(torch.tensor(0.05 + d, dtype=torch.float64))) for d in (-step, step)]
    assert float(shared.grad) == pytest.approx((around[1] - around[0]) / (2 * step), rel=1e-5)


def test_best_mean():
    x, y = table()
    found = log_marginal_likelihood(
        matern(), x, y + 3, noise_variance=0.02, mean=None, tolerance=1e-7, generator=0
    )
    solved = torch.linalg.solve(
        matern()(x).to_dense().detach() + 0.02 * torch.eye(300).double(),
        torch.stack([torch.ones_like(y), y + 3], 1),
    )
    assert float(found.mean) == pytest.approx(float(solved[:, 1].sum() / solved[:, 0].sum()), abs=1e-5)
    exact = exact_log_marginal_likelihood(matern(), x, y + 3, noise_variance=0.02, mean=None)
    assert abs(found.value - exact) < 4 * found.standard_error + 0.5 * found.quadratic_bound + 0.01


def test_standard_error_is_honest():
    x, y = table(150)
    exact = exact_log_marginal_likelihood(matern(), x, y, noise_variance=0.02)
    runs = [
        log_marginal_likelihood(
            matern(),
            x,
            y,
            noise_variance=0.02,
            preconditioner=NearestNeighbour(5),
            tolerance=1e-8,
            generator=k,
        )
        for k in range(40)
    ]
    scores = np.array([(run.value - exact) / run.standard_error for run in runs])
    assert abs(scores.mean()) < 3 / 40**0.5
    assert 0.6 < scores.std() < 1.5


def test_quadratic_term_is_bounded_from_both_sides():
    x, y = table()
    h = matern()(x).to_dense().detach() + 0.02 * torch.eye(300).double()
    exact = float(y @ torch.linalg.solve(h, y))
    for tolerance in (1e-1, 1e-2, 1e-3):
        found = log_marginal_likelihood(matern(), x, y, noise_variance=0.02, tolerance=tolerance, generator=0)
        assert found.quadratic <= exact * (1 + 1e-9)
        assert exact - found.quadratic <= found.quadratic_bound * (1 + 1e-9)
        assert found.residual <= tolerance


def signs(n, probes):
    return 2.0 * torch.randint(2, (n, probes), generator=seeded(0), dtype=torch.float64) - 1.0


def test_diagonal_matrices_are_exact():
    """Random signs see the diagonal of log S without noise, and n Lanczos steps see all of it."""
    values = torch.linspace(0.1, 5.0, 20, dtype=torch.float64)
    found = trace_of_log(
        lambda v: values[:, None] * v,
        signs(20, 4),
        100,
        exact_trace=False,
        memory_budget=2**20,
    )
    assert found.value == pytest.approx(float(values.log().sum()), abs=1e-8)
    assert found.error < 1e-8
    few = torch.ones(20, dtype=torch.float64)
    few[:3] = torch.tensor([2.0, 3.0, 4.0])  # four eigenvalues: the process ends after as many steps
    ended = trace_of_log(
        lambda v: few[:, None] * v,
        signs(20, 4),
        100,
        exact_trace=False,
        memory_budget=2**20,
    )
    assert ended.value == pytest.approx(float(few.log().sum()), abs=1e-8)
    assert ended.steps <= 5


def _dense(exact_trace, budget=2**24, probes=24):
    root = torch.randn(100, 100, generator=seeded(1), dtype=torch.float64) * 0.03
    s = torch.eye(100, dtype=torch.float64) + root + root.T
    s = s * (100 / s.trace())
    found = trace_of_log(
        lambda v: s @ v,
        signs(100, probes),
        60,
        exact_trace=exact_trace,
        memory_budget=budget,
    )
    return found, float(torch.linalg.slogdet(s)[1])


def test_control_takes_noise_away_and_no_truth():
    (plain, exact), (controlled, _) = _dense(False), _dense(True)
    assert controlled.error < 0.7 * plain.error
    assert abs(controlled.value - exact) < 4 * controlled.error


def test_memory_splits_the_probes_not_the_answer():
    (whole, _), (parts, _) = _dense(True), _dense(True, budget=16 * 100 * 66 * 12)
    assert abs(whole.value - parts.value) < 4 * (whole.error + parts.error)
    assert parts.num_probes == 24


def test_other_kernels_and_precision():
    x = torch.randint(0, 3, (200, 40), generator=seeded(0), dtype=torch.uint8)
    y = torch.randn(200, generator=seeded(1), dtype=torch.float64)
    kernel = ScaleKernel(TanimotoMinMax()).double()
    exact = exact_log_marginal_likelihood(kernel, x, y, noise_variance=0.3)
    for dtype in (torch.float32, torch.float64):
        found = log_marginal_likelihood(kernel, x, y, noise_variance=0.3, dtype=dtype, generator=0)
        assert abs(found.value - exact) < 4 * found.standard_error + 0.5 * found.quadratic_bound + 0.01


class _Rootless(Preconditioner):
    def build(self, operator, generator):
        class Built:
            log_det = 0.0

            def apply(self, v):
                return v

        return Built()


def test_misuse():
    x, y = table(20)
    with pytest.raises(InputError, match="num_probes"):
        log_marginal_likelihood(matern(), x, y, noise_variance=0.1, num_probes=1)
    with pytest.raises(InputError, match="preconditioner"):
        log_marginal_likelihood(matern(), x, y, noise_variance=0.1, preconditioner="best")
    with pytest.raises(UnsupportedOperator, match="square root"):
        log_marginal_likelihood(matern(), x, y, noise_variance=0.1, preconditioner=_Rootless())


def test_pol_within_a_thousandth_of_the_factor(data_dir):
    data, published = uci("pol", 0), uci_hyperparameters("pol", 0)
    x, y = (torch.as_tensor(a)[:1500] for a in (data.x_train, data.y_train))
    kernel, noise = published.kernel(), published.noise_variance
    exact = exact_log_marginal_likelihood(kernel, x, y, noise_variance=noise)
    found = log_marginal_likelihood(kernel, x, y, noise_variance=noise, generator=0, dtype=torch.float32)
    assert abs(found.value - exact) < 3 * found.standard_error + 0.5 * found.quadratic_bound
    assert abs(found.value - exact) < 1e-3 * abs(exact) + 3 * found.standard_error


def test_rbf_kernels_with_little_noise():
    x, y = table(400)
    kernel = ScaleKernel(RBFKernel()).double()
    exact = exact_log_marginal_likelihood(kernel, x, y, noise_variance=1e-3)
    found = log_marginal_likelihood(kernel, x, y, noise_variance=1e-3, generator=0)
    assert abs(found.value - exact) < 4 * found.standard_error + 0.5 * found.quadratic_bound + 0.01

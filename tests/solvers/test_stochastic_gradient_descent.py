"""Primal stochastic gradient descent: the step it finds, what it reaches, and how it says that it does not."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.errors import InputError, NotConverged, UnsupportedOperator
from sggp.kernels import TanimotoMinMax
from sggp.operators import InducingOperator, KernelOperator
from sggp.preconditioners import LowRankPlusNeighbour, NearestNeighbour, Nystrom
from sggp.solvers import Auto, Cholesky, ConjugateGradients, Status, StochasticGradientDescent
from sggp.solvers.descent_directions import Functions, Normal, direction_for
from sggp.solvers.stochastic_gradient_descent import curvature
from tests.catalogue import count_rows
from tests.operators.test_least_squares import Unfeatured
from tests.solvers.dense import DenseOperator


def matern(d: int, lengthscale: float = 1.0) -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=d)).double()
    kernel.outputscale = 0.7
    kernel.base_kernel.lengthscale = lengthscale
    return kernel


def normal(generator, *shape) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def easy(generator, noise=1.0, dtype=torch.float64, n=400):
    """Ten dimensions: nearly independent points, a well-conditioned system."""
    return KernelOperator(matern(10), normal(generator, n, 10), noise, dtype=dtype)


@pytest.mark.parametrize("per_point", [False, True])
def test_agrees_with_a_dense_solve(per_point, generator, dtype):
    noise = torch.rand(400, generator=generator, dtype=torch.float64) + 0.5 if per_point else 1.0
    operator = easy(generator, noise, dtype)
    rhs = normal(generator, 400, 3)
    solution = StochasticGradientDescent().solve(operator, rhs, tolerance=2e-3, generator=1)
    assert solution.converged, solution
    exact = torch.linalg.solve(operator.dense(), rhs)
    assert float((solution.x - exact).norm() / exact.norm()) < 4e-3
    assert not any("diverged" in note for note in solution.notes)


def test_a_constant_step_converges_to_the_solution_itself(generator):
    """No floor of sampling noise: the residual falls far below what a plain target allows."""
    operator = easy(generator)
    solution = StochasticGradientDescent().solve(
        operator, normal(generator, 400, 1), tolerance=1e-7, generator=1
    )
    assert solution.converged, solution
    assert solution.epochs < 400


def test_same_seed_same_answer_and_new_seed_new_batches(generator):
    operator, rhs = easy(generator), normal(generator, 400, 2)
    solver = StochasticGradientDescent(batch_size=100)
    one, two, other = (solver.solve(operator, rhs, generator=seed) for seed in (5, 5, 6))
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, other.x)


def test_epochs_count_every_entry(generator):
    """One step of all rows is one epoch, and so is the residual measured at the end."""
    operator = easy(generator, n=300)
    solution = StochasticGradientDescent(step_size=1.0, batch_size=300).solve(
        operator, normal(generator, 300, 1), tolerance=1e-12, max_epochs=20, on_failure="return"
    )
    assert solution.iterations >= 19
    assert solution.epochs == pytest.approx(solution.iterations + 1)


@pytest.mark.parametrize(
    "kind", ["kernel", "kernel-tiles", "inducing", "inducing-tiles", "counts", "no-features"]
)
def test_the_step_found_is_stable(kind, generator):
    """From the defaults nothing diverges, and what the curvature says is at least the truth."""
    budget = 200_000 if kind.endswith("tiles") else 2**32
    x = normal(generator, 300, 2)
    kernel = matern(2, 0.5)
    if kind == "counts":
        x = torch.poisson(torch.full((300, 20), 0.3), generator=generator).to(torch.uint8)
        kernel = TanimotoMinMax()
    if kind == "no-features":
        kernel = Unfeatured().double()
    if kind.startswith("inducing"):
        operator = InducingOperator(kernel, x, x[:50], 0.1, memory_budget=budget)
        truth = torch.linalg.eigvalsh(operator.dense())[-1]
    else:
        operator = KernelOperator(kernel, x, 0.1, dtype=torch.float64, memory_budget=budget)
        k = KernelOperator(kernel, x, 0.1, dtype=torch.float64).dense() - 0.1 * torch.eye(
            300, dtype=torch.float64
        )
        truth = torch.linalg.eigvalsh(k @ k / 0.1 + k)[-1]
    found = curvature(operator, generator)
    assert 0.98 * float(truth) < found.top < 1.2 * float(truth)
    assert found.row >= 0.98 * float(truth) - found.trace
    rhs = normal(generator, operator.shape[0], 2)
    for preconditioner in ("auto", None):
        solution = StochasticGradientDescent(preconditioner=preconditioner).solve(
            operator, rhs, generator=0, max_epochs=25, on_failure="return"
        )
        assert not any("diverged" in note for note in solution.notes), solution.notes
        assert bool((solution.residual < 1.0).all())
    assert any("sampled columns" in note for note in solution.notes) is (kind == "no-features")


@pytest.mark.parametrize("noise", [0.1, 1e-6])
@pytest.mark.parametrize("kind", ["line", "five", "one", "clusters"])
def test_hard_systems_end_in_the_open(kind, noise, generator, dtype):
    """Defaults on a line, five points, one point and near-duplicates: finite, no worse than zero, status per column."""
    x = {
        "line": torch.linspace(0, 1, 200, dtype=torch.float64)[:, None],
        "five": torch.rand(5, 1, generator=generator, dtype=torch.float64),
        "one": torch.zeros(1, 1, dtype=torch.float64),
        "clusters": torch.rand(20, 1, generator=generator, dtype=torch.float64).repeat(10, 1)
        + 1e-5 * normal(generator, 200, 1),
    }[kind]
    operator = KernelOperator(matern(1), x, noise, dtype=dtype)
    rhs = torch.cat([torch.sin(6 * x) + 1, torch.zeros_like(x)], 1)
    settings = {"generator": 0, "max_epochs": 100, "on_failure": "return"}
    solution = StochasticGradientDescent().solve(operator, rhs, **settings)
    assert solution.status[0] in (Status.CONVERGED, Status.BUDGET_SPENT, Status.STAGNATED)
    assert solution.status[1] is Status.CONVERGED
    # below, K itself is known to no better, and a step may have to be halved
    if noise > 200 * torch.finfo(dtype).eps:
        assert not any("diverged" in note for note in solution.notes), solution.notes
    gap = (rhs - operator.dense() @ solution.x).norm(dim=0)[0] / rhs.norm(dim=0)[0]
    assert float(gap) == pytest.approx(float(solution.residual[0]), rel=0.05)
    assert float(solution.residual[0]) < 1.0
    assert kind != "one" or solution.status[0] is Status.CONVERGED


def test_a_residual_that_stops_falling_is_stagnation_and_the_notes_say_why(generator, monkeypatch):
    monkeypatch.setattr("sggp.solvers.stochastic_gradient_descent._PATIENT_STEPS", 60)
    x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
    operator = KernelOperator(matern(1, 3.0), x, 1e-4)
    with pytest.warns(NotConverged, match="stagnated"):
        solution = StochasticGradientDescent(preconditioner=None).solve(
            operator, normal(generator, 100, 1), generator=0
        )
    assert any("in 40 epochs: small eigenvalues" in note for note in solution.notes)


@pytest.mark.parametrize("inducing", [False, True])
def test_backs_off_from_a_step_that_diverges(inducing, generator):
    operator = easy(generator)
    rhs = normal(generator, 400, 2)
    if inducing:
        operator = InducingOperator(matern(10), operator.x, operator.x[:50], 1.0)
        rhs = operator.normal_rhs(rhs)
    step = 5000.0 if inducing else 200.0
    solution = StochasticGradientDescent(step_size=step, batch_size=100).solve(operator, rhs, generator=1)
    assert solution.converged
    assert sum("halved" in note for note in solution.notes) >= 2
    hopeless = StochasticGradientDescent(step_size=1e14, batch_size=100).solve(
        operator, rhs, generator=1, on_failure="return"
    )
    assert set(hopeless.status) == {Status.DIVERGED}
    assert bool(hopeless.x.isfinite().all())


@pytest.mark.parametrize(
    "solver",
    [StochasticGradientDescent(), ConjugateGradients(), Cholesky(), Auto()],
    ids=["sgd", "cg", "cholesky", "auto"],
)
def test_inducing_points_by_every_solver_that_fits(solver, generator, dtype):
    x = normal(generator, 400, 5)
    noise = torch.rand(400, generator=generator, dtype=torch.float64) + 0.3
    operator = InducingOperator(matern(5), x, x[:60], noise, dtype=dtype)
    rhs = operator.normal_rhs(normal(generator, 400, 3))
    solution = solver.solve(operator, rhs, tolerance=1e-4, generator=0)
    assert solution.converged, solution
    exact = torch.linalg.solve(operator.dense(), rhs)
    reach = operator.dense()
    assert float((reach @ (solution.x - exact)).norm() / rhs.norm()) < 2e-4
    assert float((solution.x - exact).norm() / exact.norm()) < 2e-2


def test_all_points_as_centres_is_the_exact_posterior_mean(generator):
    x, q = normal(generator, 120, 10), normal(generator, 20, 10)
    y = normal(generator, 120, 1)
    exact, inducing = KernelOperator(matern(10), x, 0.5), InducingOperator(matern(10), x, x, 0.5)
    settings = {"tolerance": 1e-5, "generator": 0}
    one = StochasticGradientDescent().solve(exact, y, **settings).x
    two = StochasticGradientDescent().solve(inducing, inducing.normal_rhs(y), **settings).x
    cross = matern(10)(q, x).to_dense().detach()
    wanted = cross @ torch.linalg.solve(exact.dense(), y)
    torch.testing.assert_close(cross @ one, wanted, rtol=0, atol=2e-4)
    torch.testing.assert_close(cross @ two, wanted, rtol=0, atol=2e-4)


def test_published_setting_is_kept(generator):
    paper = StochasticGradientDescent.paper()
    assert (paper.step_size, paper.batch_size, paper.momentum, paper.num_features) == (0.5, 512, 0.9, 100)
    assert paper.averaging == pytest.approx(1e-3)
    assert StochasticGradientDescent.paper(iterations=10_000).averaging == pytest.approx(1e-2)
    solution = paper.solve(
        easy(generator), normal(generator, 400, 1), max_epochs=3, generator=0, on_failure="return"
    )
    assert any("βn = 0.5," in note for note in solution.notes)


@pytest.mark.parametrize("noise", [1e-3, 2.0])
def test_the_step_is_in_the_papers_units(noise, generator):
    """The published objective is multiplied by the noise: from zero the first step is (βn/n) K r whatever σ²."""
    operator = easy(generator, noise)
    rhs = normal(generator, 400, 64)  # some running residuals of the start round above one
    solver = StochasticGradientDescent(step_size=0.5, averaging=1.0)
    solution = solver.solve(operator, rhs, callback=lambda progress: True, on_failure="return")
    kernel = operator.dense() - noise * torch.eye(400, dtype=torch.float64)
    torch.testing.assert_close(solution.x, 0.5 / 400 * kernel @ rhs, rtol=1e-9, atol=1e-12)
    found = [
        StochasticGradientDescent()
        .solve(
            KernelOperator(matern(2), operator.x[:, :2], level),
            rhs[:, :2],
            max_epochs=1,
            generator=0,
            on_failure="return",
        )
        .notes[0]
        .split(",")[0]
        .split("= ")[1]
        for level in (noise, 10 * noise)
    ]
    assert float(found[0]) == pytest.approx(float(found[1]), rel=0.3)


@pytest.mark.parametrize(
    "settings",
    [{"step_size": -1.0}, {"momentum": 1.0}, {"batch_size": 0}, {"averaging": 0.0}, {"num_features": 0}],
)
def test_bad_settings(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        StochasticGradientDescent(**settings)


def test_what_does_not_fit_is_refused(generator):
    rhs = torch.ones(4, dtype=torch.float64)
    with pytest.raises(UnsupportedOperator, match="LeastSquaresOperator"):
        StochasticGradientDescent().solve(DenseOperator(torch.eye(4, dtype=torch.float64)), rhs)
    with pytest.raises(InputError, match="at least one is zero"):
        StochasticGradientDescent().solve(KernelOperator(matern(1), normal(generator, 4, 1), 0.0), rhs)


def test_preconditioner_and_step_size_do_not_go_together():
    with pytest.raises(InputError, match="preconditioner"):
        StochasticGradientDescent(preconditioner="nystrom")
    with pytest.raises(InputError, match="step_size"):
        StochasticGradientDescent(step_size=0.5, preconditioner=Nystrom(10))


def predictions_bound(cross, matrix, residual: float, rhs) -> float:
    """‖C A⁻¹ρ‖ for ‖ρ‖ ≤ residual·‖r‖, with a part in a million for rounding."""
    reach = torch.linalg.solve(matrix, cross.T)
    return float(torch.linalg.matrix_norm(reach, 2)) * residual * float(rhs.norm()) * (1 + 1e-6)


@pytest.mark.parametrize(("d", "lengthscale", "noise", "bits"), [(32, 6.0, 0.3, 64), (8, 1.5, 3e-3, 32)])
def test_defaults_reach_the_predictions(d, lengthscale, noise, bits, generator):
    """Small forms of systems on which the plain gradient stagnates far from them."""
    n, tolerance, dtype = 300, 1e-3, getattr(torch, f"float{bits}")
    x, q = normal(generator, n, d), normal(generator, 50, d)
    kernel = matern(d, lengthscale)
    kernel.outputscale = 1.0
    y = torch.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3] + noise**0.5 * normal(generator, n, 1)
    operator = KernelOperator(kernel, x, noise, dtype=dtype)
    solution = StochasticGradientDescent().solve(
        operator, y, tolerance=tolerance, max_epochs=100, generator=0
    )
    assert solution.converged, solution
    dense, cross = operator.dense(), kernel(q, x).to_dense().detach()
    error = cross @ (solution.x - torch.linalg.solve(dense, y))
    assert float(error.norm()) <= predictions_bound(cross, dense, tolerance, y)
    plain = StochasticGradientDescent(preconditioner=None).solve(
        operator, y, tolerance=tolerance, max_epochs=2 * solution.epochs, generator=0, on_failure="return"
    )
    assert not plain.converged


def test_defaults_reach_the_predictions_on_centres(generator, dtype):
    n, m, noise, tolerance = 800, 100, 1e-2, 1e-4
    x, q = 2 * normal(generator, n, 3), normal(generator, 50, 3)
    kernel = matern(3)
    y = torch.sin(x[:, :1]) + noise**0.5 * normal(generator, n, 1)
    operator = InducingOperator(kernel, x, x[:m], noise, dtype=dtype)
    rhs = operator.normal_rhs(y)
    solution = StochasticGradientDescent().solve(
        operator, rhs, tolerance=tolerance, max_epochs=200, generator=0
    )
    assert solution.converged, solution
    dense, cross = operator.dense(), kernel(q, x[:m]).to_dense().detach()
    error = cross @ (solution.x - torch.linalg.solve(dense, rhs))
    assert float(error.norm()) <= predictions_bound(cross, dense, tolerance, rhs)


def test_preconditioned_and_plain_agree_in_the_limit(generator):
    operator, tolerance = easy(generator, n=200), 1e-6
    rhs = normal(generator, 200, 2)
    found = [
        StochasticGradientDescent(preconditioner=chosen)
        .solve(operator, rhs, tolerance=tolerance, generator=0)
        .x
        for chosen in ("auto", None, Nystrom(20), LowRankPlusNeighbour(10, 5))
    ]
    inverse = torch.linalg.inv(operator.dense())
    most = 2 * tolerance * float(torch.linalg.matrix_norm(inverse, 2)) * float(rhs.norm(dim=0).max())
    for other in found[1:]:
        assert float((other - found[0]).norm(dim=0).max()) <= most


@pytest.mark.parametrize("inducing", [False, True])
def test_directions_average_to_the_preconditioned_gradient(inducing, generator):
    """Over batches that make up all observations, the mean is M times the gradient of the loss, for any anchor."""
    x, noise = normal(generator, 60, 3), torch.rand(60, generator=generator, dtype=torch.float64) + 0.1
    kernel = matern(3)
    exact = KernelOperator(kernel, x, noise)
    operator = InducingOperator(kernel, x, x[:20], noise) if inducing else exact
    m = operator.shape[0]
    r, u, anchor = (normal(generator, m, 2) for _ in range(3))
    direction = direction_for(operator, "auto", 100, generator)
    assert isinstance(direction, Normal if inducing else Functions)
    target = operator.anchored_target(anchor, r)
    batches = torch.randperm(60, generator=generator).split(12)
    found = [direction.at(rows, u, anchor, target, generator) for rows in batches]
    mean = sum(change for change, _ in found) / len(batches)
    gradient = operator.dense() @ u - r
    if inducing:
        wanted = torch.linalg.solve(operator.gathered(), gradient)
    else:
        wanted = direction.apply(gradient)
        for rows, (_, gap) in zip(batches, found, strict=True):
            torch.testing.assert_close(gap, gradient[rows], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mean, wanted, rtol=1e-7, atol=1e-9 * float(wanted.abs().max()))


def test_without_memory_for_a_preconditioner_steps_are_plain(generator):
    x = normal(generator, 300, 2)
    small = KernelOperator(matern(2), x, 0.1, memory_budget=200_000)
    solution = StochasticGradientDescent().solve(
        small, normal(generator, 300, 1), max_epochs=2, generator=0, on_failure="return"
    )
    assert "βn" in solution.notes[0]


UNKIND = {
    "smooth": (lambda g: normal(g, 300, 2), "rbf", 1e-2),
    "high-noise": (lambda g: normal(g, 300, 5), "matern", 10.0),
    "low-noise": (lambda g: normal(g, 300, 5), "matern", 1e-6),
    "clusters": (lambda g: normal(g, 10, 4).repeat(30, 1) + 1e-3 * normal(g, 300, 4), "matern", 1e-2),
    "repeats": (lambda g: normal(g, 60, 4).repeat(5, 1), "matern", 1e-2),
    "fingerprints": (lambda g: count_rows(200, 40, torch.uint8, g), "tanimoto", 0.1),
}


@pytest.mark.parametrize("name", UNKIND)
def test_unkind_systems_are_solved_or_told(name, generator):
    make, kind, noise = UNKIND[name]
    x = make(generator)
    kernel = {
        "rbf": gpytorch.kernels.RBFKernel().double(),
        "matern": matern(x.shape[1]),
        "tanimoto": TanimotoMinMax(),
    }[kind]
    operator = KernelOperator(kernel, x, noise, dtype=torch.float64)
    dense = operator.dense()
    rhs = torch.cat([normal(generator, len(x), 1), dense @ normal(generator, len(x), 1)], 1)
    solution = StochasticGradientDescent().solve(
        operator, rhs, max_epochs=100, generator=0, on_failure="return"
    )
    true = (rhs - dense @ solution.x).norm(dim=0) / rhs.norm(dim=0)
    torch.testing.assert_close(solution.residual, true, rtol=1e-6, atol=1e-9)
    assert [status is Status.CONVERGED for status in solution.status] == (true <= 1e-2).tolist()
    assert solution.converged, solution


@pytest.mark.parametrize("seed", [0, 1])
def test_the_step_knows_the_noise_that_errors_of_p_bring(seed: int) -> None:
    """λ₁(A) and ρ(A∘A) for A = (K + Σ)P⁻¹, whose diagonal is 1: the diagonal alone says nothing of either.

    Six power iterations with seven random signs each: both within a factor, the step's margin.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
    operator = KernelOperator(kernel, x, 0.05)
    apply = NearestNeighbour(3).build(operator, generator).apply
    found = Functions(operator, apply).curvature(generator)
    a = operator.dense() @ apply(torch.eye(200, dtype=torch.float64))
    top, noise = (float(torch.linalg.eigvals(m).abs().max()) for m in (a, a * a))
    assert float(a.diagonal().max()) == pytest.approx(1.0)
    assert noise > 2.0
    assert 0.6 * noise < found.row / 200 < 1.7 * noise
    assert 0.6 * top < found.top < 1.3 * top

"""Bayesian linear models against dense float64 algebra."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, NotConverged, ShapeError, SolverFailure
from sggp.linear import BayesianLinearModel, BlockFeatures, LinearPosterior, NormalEquation
from sggp.linear.design import Design, precision_root
from sggp.operators import LeastSquaresOperator, LinearOperator
from sggp.solvers import StochasticGradientDescent
from tests.linear.dense import Dense, block_diagonal, draw, log_marginal_likelihood, spd_blocks

N, OUT, D = 40, 3, 10
TIGHT = BayesianLinearModel(prior_precision=2.0, noise_variance=1.0, num_samples=8, tolerance=1e-10)


def data(noise: float = 0.3) -> tuple[Tensor, Tensor]:
    phi = draw(N, OUT, D, seed=1)
    return phi, phi @ draw(D, seed=2) + noise * draw(N, OUT, seed=3)


def noise_form(kind: str) -> tuple[Tensor | None, Tensor]:
    """A precision as it is given, and as (n, o, o) blocks."""
    eye = torch.eye(OUT, dtype=torch.float64)
    if kind == "none":
        return None, eye.expand(N, OUT, OUT)
    if kind == "per point":
        b = 0.1 + draw(N, seed=4).abs()
        return b, b[:, None, None] * eye
    if kind == "per output":
        b = 0.1 + draw(N, OUT, seed=4).abs()
        return b, torch.diag_embed(b)
    b = spd_blocks(N, OUT, seed=4)
    return b, b


KINDS = ["none", "per point", "per output", "full"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_and_the_covariance_by_solves_are_exact_for_any_precision(kind: str) -> None:
    phi, y = data()
    given, blocks = noise_form(kind)
    scale = 0.5 + draw(D, seed=5).abs()
    model = dataclasses.replace(TIGHT, noise_variance=0.7, prior_scale=scale)
    found = model.fit(phi, y, precision=given, generator=0)
    dense = Dense(phi.reshape(-1, D), block_diagonal(blocks) / 0.7, 2.0 / scale**2)
    torch.testing.assert_close(found.weights, dense.mean(y), rtol=1e-7, atol=1e-9)
    new = draw(6, OUT, D, seed=6)
    torch.testing.assert_close(found.mean(new), new @ dense.mean(y), rtol=1e-7, atol=1e-8)
    expected = new @ dense.covariance @ new.mT
    torch.testing.assert_close(found.covariance(new, method="solve"), expected, rtol=1e-6, atol=1e-10)
    variance = found.variance(new, method="solve", observation_noise=True)
    torch.testing.assert_close(variance, expected.diagonal(dim1=1, dim2=2) + 0.7, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", ["none", "full"])
def test_samples_have_the_posterior_covariance_within_monte_carlo_error(kind: str) -> None:
    phi, y = data()
    given, blocks = noise_form(kind)
    draws = 4000
    model = dataclasses.replace(TIGHT, num_samples=draws, prior_scale="g-prior", tolerance=1e-8)
    found = model.fit(phi, y, precision=given, generator=0)
    dense = Dense(phi.reshape(-1, D), block_diagonal(blocks), 2.0 / found.prior_scale**2)
    exact = dense.covariance
    c = found.deviations @ found.deviations.T / draws
    spread = ((exact**2 + exact.diagonal()[:, None] * exact.diagonal()) / draws).sqrt()
    assert float(((c - exact) / spread).abs().max()) < 4.5
    assert float((found.deviations.mean(1) / (exact.diagonal() / draws).sqrt()).abs().max()) < 4
    error = found.effective_dimension_error
    assert abs(found.effective_dimension - dense.effective_dimension) < 4 * error
    hat = dense.covariance @ dense.phi.T @ dense.b @ dense.phi
    assert error == pytest.approx(math.sqrt(2 * float(torch.trace(hat @ hat)) / draws), rel=0.1)
    new = draw(5, OUT, D, seed=6)
    functions = found.samples(new)
    torch.testing.assert_close(functions.mean(0), found.mean(new), rtol=0, atol=0.2)
    torch.testing.assert_close((functions - found.mean(new)).square().mean(0), found.variance(new))


@pytest.mark.parametrize("learn", ["both", "prior_precision", "noise_variance"])
def test_a_fixed_point_is_a_stationary_point_of_the_marginal_likelihood(learn: str) -> None:
    phi, y = data(noise=0.8)
    draws = 1000
    settings = (
        {}
        if learn == "both"
        else {"noise_variance": 0.5}
        if learn == "prior_precision"
        else {"prior_precision": 3.0}
    )
    model = BayesianLinearModel(
        prior_scale="ones", num_samples=draws, tolerance=1e-8, step_tolerance=1e-7, **settings
    )
    found = model.fit(phi, y, generator=0)
    assert found.converged
    at = [
        torch.tensor(math.log(v), dtype=torch.float64, requires_grad=True)
        for v in (found.prior_precision, found.noise_variance)
    ]
    log_marginal_likelihood(phi.reshape(-1, D), y.reshape(-1), *at).backward()
    # dL/dlogα = ½(γ − α‖θ̄‖²) and dL/dlogσ² = ½(‖y − Φθ̄‖²/σ² − n·o + γ): half the error of γ̂, and less
    bound = 4 * found.effective_dimension_error / 2
    errors = dict(zip(("prior_precision", "noise_variance"), at, strict=True))
    for name, value in errors.items():
        if name not in settings:
            assert abs(float(value.grad)) < bound
    dense = Dense(
        phi.reshape(-1, D),
        torch.eye(N * OUT, dtype=torch.float64) / found.noise_variance,
        torch.full((D,), found.prior_precision, dtype=torch.float64),
    )
    if "prior_precision" not in settings:  # not only small: exactly what the error of γ̂ makes of it
        off = found.effective_dimension - dense.effective_dimension
        assert float(errors["prior_precision"].grad) == pytest.approx(-off / 2, abs=1e-4)


@pytest.mark.parametrize("kind", ["none", "full"])
def test_the_minibatch_gradient_is_that_of_the_low_variance_objective(kind: str) -> None:
    phi, _ = data()
    given, blocks = noise_form(kind)
    alpha, sigma2 = 1.7, 0.6
    generator = torch.Generator().manual_seed(0)
    design = Design(BlockFeatures(phi), precision_root(given, N, OUT))
    operator = NormalEquation(design, sigma2, alpha, generator)
    assert isinstance(operator, LinearOperator)
    assert isinstance(operator, LeastSquaresOperator)
    target, z = draw(D, 2, seed=7), draw(D, 2, seed=8)
    rows = torch.tensor([3, 17, 5, 30])
    leaf = z.clone().requires_grad_(True)
    inner = torch.einsum("bod,ds->bos", phi[rows], leaf)
    data_part = 0.5 * torch.einsum("bos,bop,bps->", inner, blocks[rows], inner) / sigma2
    (N / 4 * data_part + 0.5 * alpha * (leaf - target).square().sum()).backward()
    zero = torch.zeros_like(z)
    anchored = operator.anchored_target(zero, alpha * target)
    gradient = operator.data_gradient(rows, z, zero, anchored)[0] + operator.penalty_estimate(z, 1, generator)
    torch.testing.assert_close(gradient, leaf.grad)
    # unbiased around any anchor, and without noise where anchor and iterate are the solution
    anchor = draw(D, 2, seed=9)
    anchored = operator.anchored_target(anchor, alpha * target)
    every = [
        operator.data_gradient(torch.tensor([i]), z, anchor, anchored)[0]
        + operator.penalty_estimate(z - anchor, 1, generator)
        for i in range(N)
    ]
    torch.testing.assert_close(torch.stack(every).mean(0), operator.matmul(z) - alpha * target)
    solution = torch.linalg.solve(operator.matmul(torch.eye(D, dtype=torch.float64)), alpha * target)
    anchored = operator.anchored_target(solution, alpha * target)
    assert float(operator.data_gradient(rows, solution, solution, anchored)[0].abs().max()) < 1e-10


def test_stochastic_gradient_descent_finds_the_same_posterior_and_its_own_step() -> None:
    phi, y = data()
    b = spd_blocks(N, OUT, seed=4)
    solver = StochasticGradientDescent(batch_size=8)
    model = dataclasses.replace(TIGHT, num_samples=4, tolerance=1e-6)
    by_products = model.fit(phi, y, precision=b, generator=3)
    found = dataclasses.replace(model, solver=solver).fit(phi, y, precision=b, generator=3)
    assert found.converged
    assert any("batch size 8" in note for note in found.solution.notes)
    assert not any("features" in note for note in found.solution.notes)
    torch.testing.assert_close(found.weights, by_products.weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.deviations, by_products.deviations, rtol=1e-4, atol=1e-4)


def test_the_g_prior_is_the_inverse_root_of_the_fisher_diagonal_and_ignores_the_scale_of_features() -> None:
    phi, y = data()
    b = spd_blocks(N, OUT, seed=4)
    probes = 4000
    model = dataclasses.replace(TIGHT, prior_scale="g-prior", probes=probes)
    found = model.fit(phi, y, precision=b, generator=0)
    fisher = torch.einsum("nod,nop,npd->d", phi, b, phi)
    off = (found.prior_scale**-2 / fisher - 1) / math.sqrt(2 / probes)
    assert float(off.abs().max()) < 4
    units = torch.logspace(-1, 1, D, dtype=torch.float64)
    other = model.fit(phi * units, y, precision=b, generator=0)
    torch.testing.assert_close(other.prior_scale * units, found.prior_scale)
    new = draw(5, OUT, D, seed=6)
    torch.testing.assert_close(other.mean(new * units), found.mean(new))
    torch.testing.assert_close(other.variance(new * units), found.variance(new))


def test_a_feature_that_is_never_seen_has_a_bounded_scale() -> None:
    phi, y = data()
    phi[..., 0] = 0.0
    found = dataclasses.replace(TIGHT, prior_scale="g-prior").fit(phi, y, generator=0)
    assert float(found.prior_scale[0] / found.prior_scale[1:].median()) < 1.1e3
    assert float(found.weights[0]) == 0.0


def test_warm_starts_make_later_steps_cheaper_and_the_random_numbers_stay() -> None:
    phi, y = draw(N, 1, 30, seed=1) * torch.logspace(0, -2, 30, dtype=torch.float64), draw(N, 1, seed=2)
    phi_y = phi @ torch.ones(30, dtype=torch.float64) + 0.3 * y
    model = BayesianLinearModel(prior_scale="ones", num_samples=6, tolerance=1e-6, step_tolerance=1e-8)
    found = model.fit(phi, phi_y, generator=0)
    assert found.converged
    assert len(found.trace) > 3
    assert found.trace[-1].iterations < 0.5 * found.trace[0].iterations
    # with α and σ² given at once, the same draws: so the path to them leaves no mark
    model = dataclasses.replace(
        model, prior_precision=found.prior_precision, noise_variance=found.noise_variance
    )
    again = model.fit(phi, phi_y, generator=0)
    assert len(again.trace) == 1
    torch.testing.assert_close(again.deviations, found.deviations, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.weights, found.weights, rtol=1e-3, atol=1e-4)


def test_a_singular_precision_counts_its_rank_as_observations() -> None:
    p = torch.softmax(draw(N, OUT, seed=1), 1)
    b = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    assert Design(BlockFeatures(data()[0]), precision_root(b, N, OUT)).num_observations == N * (OUT - 1)
    missing = torch.ones(N, OUT, dtype=torch.float64)
    missing[:7, 1] = 0.0
    assert Design(BlockFeatures(data()[0]), precision_root(missing, N, OUT)).num_observations == N * OUT - 7
    # a target of zero precision is a missing one: whatever stands there
    phi, y = data()
    other = y + 100 * (1 - missing)
    first = dataclasses.replace(TIGHT, noise_variance=None).fit(phi, y, precision=missing, generator=0)
    second = dataclasses.replace(TIGHT, noise_variance=None).fit(phi, other, precision=missing, generator=0)
    torch.testing.assert_close(first.weights, second.weights)
    assert first.noise_variance == pytest.approx(second.noise_variance)


def test_the_same_seed_is_the_same_posterior_and_another_is_another() -> None:
    phi, y = data()
    first, same, other = (TIGHT.fit(phi, y, generator=seed).deviations for seed in (1, 1, 2))
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert float((first - other).abs().max()) > 1e-3


def test_float32_features_meet_their_tolerance() -> None:
    phi, y = data()
    found = dataclasses.replace(TIGHT, tolerance=1e-4).fit(phi.float(), y.float(), generator=0)
    assert found.converged
    exact = Dense(phi.reshape(-1, D), torch.eye(N * OUT, dtype=torch.float64), torch.full((D,), 2.0).double())
    torch.testing.assert_close(found.weights, exact.mean(y), rtol=1e-3, atol=1e-3)


def failing(model: BayesianLinearModel, phi: Tensor, y: Tensor) -> LinearPosterior:
    with pytest.warns(NotConverged, match="raise max_steps"):
        return model.fit(phi, y, generator=0)


def test_updates_that_do_not_settle_are_said() -> None:
    phi, y = data()
    model = BayesianLinearModel(max_steps=1, num_samples=4)
    assert not failing(model, phi, y).converged
    assert not model.fit(phi, y, generator=0, on_failure="return").converged
    with pytest.raises(SolverFailure, match="raise max_steps"):
        model.fit(phi, y, generator=0, on_failure="raise")
    with pytest.warns(NotConverged, match="missed their tolerance"):
        dataclasses.replace(TIGHT, tolerance=1e-12).fit(phi.float(), y.float(), generator=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"prior_precision": 0.0},
        {"noise_variance": -1.0},
        {"num_samples": 0},
        {"tolerance": 0.0},
        {"prior_scale": "fisher"},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        BayesianLinearModel(**settings)


def test_arguments_that_do_not_fit_are_refused() -> None:
    phi, y = data()
    bad = y.clone()
    bad[0, 0] = float("nan")
    for arguments, error, match in [
        ((phi, bad), InputError, "NaN"),
        ((phi, y[:-1]), ShapeError, "as many rows"),
        ((phi, y[:, :2]), ShapeError, "outputs"),
        ((phi.long(), y), DtypeError, "floating"),
        ((phi, y.long()), DtypeError, "floating"),
        (([1.0], y), DtypeError, "BlockFeatures"),
    ]:
        with pytest.raises(error, match=match):
            TIGHT.fit(*arguments)
    with pytest.raises(ShapeError, match="precision must be"):
        TIGHT.fit(phi, y, precision=torch.ones(N + 1))
    with pytest.raises(InputError, match="semi-definite"):
        TIGHT.fit(phi, y, precision=-torch.eye(OUT).expand(N, OUT, OUT))
    with pytest.raises(ShapeError, match="prior_scale"):
        dataclasses.replace(TIGHT, prior_scale=torch.ones(D + 1)).fit(phi, y)
    found = TIGHT.fit(phi, y, generator=0)
    with pytest.raises(ShapeError, match="weights"):
        found.mean(phi[..., :-1])
    with pytest.raises(InputError, match="method"):
        found.variance(phi, method="exact")


@pytest.mark.parametrize("units", [[1.0, 1.0, 1.0], [0.01, 1.0, 100.0], [300.0, 0.02, 1.0]], ids=str)
def test_columns_of_unlike_scale_get_the_weights_of_their_own_units(units):
    """They ended at zero but for the largest one: a solve to a tolerance, and one α, were of that one alone."""
    generator = torch.Generator().manual_seed(0)
    standard = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    y = (
        standard @ torch.tensor([1.0, -2.0, 0.5]).double()
        + 0.1 * torch.randn(300, generator=generator).double()
    )
    scale = torch.tensor(units, dtype=torch.float64)
    found = BayesianLinearModel().fit(standard * scale, y, generator=0)
    exact = torch.linalg.lstsq(standard, y[:, None]).solution[:, 0]
    torch.testing.assert_close(found.weights * scale, exact, rtol=0, atol=2e-3)
    assert found.noise_variance == pytest.approx(0.01, rel=0.25)
    spread = found.deviations.std(dim=1) * scale
    torch.testing.assert_close(spread, torch.full((3,), 0.1 / 300**0.5).double(), rtol=0.5, atol=0)

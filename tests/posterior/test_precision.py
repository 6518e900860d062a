"""What was solved is what predicts: float32 rows and points do not round the weights away."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.kernels import TanimotoMinMax
from sggp.posterior import Posterior, condition
from sggp.solvers import Cholesky, ConjugateGradients

NOISE = 1e-6
TOLERANCE = 1e-6


def _kernel() -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=8)).double()
    kernel.outputscale, kernel.base_kernel.lengthscale = 1.0, 1.5
    return kernel


@pytest.fixture
def rows(generator):
    """Float32 rows with near-duplicates, so that large weights cancel."""
    x = torch.randn(300, 8, generator=generator)
    x[-40:] = x[:40] + 1e-4 * torch.randn(40, 8, generator=generator)
    return x, torch.randn(300, generator=generator)


def _conditioned(rows, solver=None, noise=NOISE, tolerance=TOLERANCE, dtype=torch.float32) -> Posterior:
    return condition(
        _kernel(), *rows, noise_variance=noise, solver=solver, tolerance=tolerance, num_samples=2, num_features=64,
        generator=0, dtype=dtype,
    )  # fmt: skip


@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradients()], ids=lambda s: type(s).__name__)
def test_the_mean_at_the_rows_is_the_targets_less_noise_times_weights(rows, solver):
    """Kα = y − σ²α up to the residual, which is below tolerance·‖y‖ in norm, and so in every entry."""
    x, y = rows
    posterior = _conditioned(rows, solver)
    assert posterior.solution.converged
    found = posterior.mean(x)
    assert found.dtype == torch.float32
    expected = y.double() - NOISE * posterior.mean_weights
    rounding = torch.finfo(torch.float32).eps * float(y.abs().max()) + 1e-13 * float(
        posterior.mean_weights.norm()
    )
    assert float((found.double() - expected).abs().max()) <= TOLERANCE * float(y.norm()) + rounding


def test_float32_points_get_float64_answers_in_float32(rows, generator):
    posterior = _conditioned(rows)
    points = torch.randn(20, 8, generator=generator)
    for values in (posterior.mean, posterior.samples, posterior.variance, posterior.variance_error):
        assert values(points).dtype == torch.float32
        assert torch.equal(values(points), values(points.double()).float())
    paired = torch.randn(2, 5, 8, generator=generator)
    assert torch.equal(posterior.samples.paired(paired), posterior.samples.paired(paired.double()).float())
    more = posterior.more_samples(2, generator=1)
    assert torch.equal(more(points), more(points.double()).float())


def test_weights_stay_float64_through_updates_and_files(rows, tmp_path):
    posterior = _conditioned(rows)
    updated = posterior.update(rows[0][:3] + 0.1, rows[1][:3], generator=1)
    updated.save(tmp_path / "p")
    for one in (posterior, updated, Posterior.load(tmp_path / "p")):
        assert one.solution.x.dtype == torch.float64
        assert one.precision == torch.float64


def test_where_float32_carries_the_weights_it_is_used(rows):
    posterior = _conditioned(rows, noise=0.1, tolerance=1e-3)
    assert posterior.precision == torch.float32
    assert _conditioned(rows, noise=0.1, tolerance=1e-3, dtype=None).precision == torch.float64
    points = rows[0][:9]
    # to the accuracy that was asked for: each entry of the residual is below its norm
    difference = posterior.mean(points).double() - posterior.mean(points.double())
    assert float(difference.abs().max()) <= 1e-3 * float(rows[1].norm())


def test_fingerprints(generator):
    x = (torch.rand(60, 32, generator=generator) < 0.3).to(torch.uint8)
    y = torch.randn(60, generator=generator, dtype=torch.float64)
    fine, coarse = (
        condition(
            TanimotoMinMax(),
            x,
            y,
            noise_variance=noise,
            tolerance=tolerance,
            num_samples=0,
            dtype=torch.float32,
        )
        for noise, tolerance in ((1e-6, 1e-6), (1.0, 1e-2))
    )
    assert (fine.precision, coarse.precision) == (torch.float64, torch.float32)
    expected = fine.y - fine.noise_variance * fine.mean_weights
    bound = 1e-6 * float(fine.y.norm()) + torch.finfo(torch.float32).eps * float(fine.y.abs().max())
    assert float((fine.mean(fine.x).double() - expected).abs().max()) <= bound + 1e-13 * float(
        fine.mean_weights.norm()
    )

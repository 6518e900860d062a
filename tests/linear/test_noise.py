"""Learnt noise where the weights explain nearly all of the data."""

from __future__ import annotations

import math

import pytest
import torch

from sggp.linear import BayesianLinearModel
from sggp.linear.design import Design, precision_root
from sggp.linear.features import BlockFeatures
from tests.linear.dense import draw, log_marginal_likelihood

ROWS, WEIGHTS = 20, 60


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_learnt_where_fewer_degrees_of_freedom_are_left_than_their_monte_carlo_error(
    seed: int,
) -> None:
    """n − γ̂ was negative by chance, and the noise fell to a millionth of its value in a fit that "converged"."""
    phi = draw(ROWS, WEIGHTS, seed=10 + seed)
    y = phi @ draw(WEIGHTS, seed=20 + seed) + 3.0 * draw(ROWS, seed=30 + seed)
    model = BayesianLinearModel(prior_precision=1.0, prior_scale="ones")
    found = model.fit(phi, y, generator=seed)
    assert found.converged
    at = torch.tensor(math.log(found.noise_variance), dtype=torch.float64, requires_grad=True)
    log_marginal_likelihood(phi, y, torch.zeros((), dtype=torch.float64), at).backward()
    hat = torch.linalg.inv(phi @ phi.T / found.noise_variance + torch.eye(ROWS)).double()
    left = float(torch.trace(hat))
    # dL/dlogσ² = ½(‖y − Φθ̄‖²/σ² − n + γ): half of the error of n − γ, which has a χ² share in every direction
    assert abs(float(at.grad)) < 4 * math.sqrt(2 * float(torch.trace(hat @ hat)) / model.num_samples) / 2
    assert left > 0.01 * ROWS


@pytest.mark.parametrize("kind", ["none", "per point", "per output", "full"])
def test_the_noise_that_is_drawn_counts_the_observations_there_are(kind: str) -> None:
    n, o, columns = 30, 3, 4000
    missing = torch.ones(n, o, dtype=torch.float64)
    missing[:7, 1] = 0.0
    p = torch.softmax(draw(n, o, seed=1), 1)
    precision = {
        "none": None,
        "per point": missing[:, 1],
        "per output": missing,
        "full": torch.diag_embed(p) - p[:, :, None] * p[:, None, :],
    }[kind]
    count = {"none": n * o, "per point": (n - 7) * o, "per output": n * o - 7, "full": n * (o - 1)}[kind]
    design = Design(BlockFeatures(draw(n, o, 5, seed=2), batch_size=7), precision_root(precision, n, o))
    _, squares = design.noise(columns, torch.Generator().manual_seed(0))
    assert float(squares.mean()) == pytest.approx(count, abs=4 * math.sqrt(2 * count / columns))


@pytest.mark.parametrize("blocks", [False, True])
def test_precisions_of_many_decades_all_count(blocks: bool) -> None:
    """Those below 1e-10 of the largest were no observations, but their misfit was counted: a noise of 1.85."""
    n = 400
    x = draw(n, 5, seed=0)
    precision = torch.logspace(-8, 8, n, dtype=torch.float64)[torch.randperm(n, generator=_seeded(1))]
    y = x @ draw(5, seed=2) + draw(n, seed=3) / precision.sqrt()
    given = torch.diag_embed(precision[:, None]) if blocks else precision
    found = BayesianLinearModel(tolerance=1e-8).fit(x, y, precision=given, generator=0)
    weighted = precision.sqrt()[:, None]
    residual = weighted[:, 0] * y - weighted * x @ torch.linalg.lstsq(
        weighted * x, (weighted[:, 0] * y)[:, None]
    ).solution.reshape(-1)
    exact = float(residual.square().sum()) / (n - 5)
    assert found.noise_variance == pytest.approx(exact, rel=0.02)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

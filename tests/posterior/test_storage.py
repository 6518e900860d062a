"""What a saved posterior says of its solve, after it is loaded."""

from __future__ import annotations

import pytest
import torch

from sggp.posterior import Posterior, condition
from sggp.solvers import ConjugateGradients
from tests.solvers.dense import matern


@pytest.fixture
def estimated(generator) -> Posterior:
    """A posterior whose budget ended before its residuals could be measured."""
    x = torch.rand(1500, 2, generator=generator, dtype=torch.float64)
    return condition(
        matern(2),
        x,
        torch.sin(3 * x).sum(1),
        noise_variance=1e-3,
        num_samples=2,
        num_features=64,
        solver=ConjugateGradients(None),
        max_epochs=4,
        on_failure="return",
        generator=0,
    )


def test_an_estimated_residual_stays_an_estimate(estimated, tmp_path):
    given = estimated.solution
    assert given.residual_kind == "estimated"
    estimated.save(tmp_path / "p")
    loaded = Posterior.load(tmp_path / "p").solution
    assert loaded.residual_kind == "estimated"
    assert torch.equal(loaded.residual_error, given.residual_error)
    assert torch.equal(loaded.residual, given.residual)
    assert loaded.status == given.status
    assert repr(loaded) == repr(given)


def test_files_that_do_not_say_hold_measured_residuals(estimated, tmp_path):
    estimated.save(tmp_path / "p")
    content = torch.load(tmp_path / "p", weights_only=True)
    del content["solution"]["residual_kind"], content["solution"]["residual_error"]
    torch.save(content, tmp_path / "old")
    loaded = Posterior.load(tmp_path / "old").solution
    assert loaded.residual_kind == "true"
    assert torch.equal(loaded.residual_error, torch.zeros(3, dtype=torch.float64))

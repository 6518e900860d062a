"""`condition(checkpoint=...)`: a killed conditioning goes on, with the same samples."""

from __future__ import annotations

import pytest
import torch

from sggp import condition
from sggp.errors import CheckpointError, InputError
from sggp.solvers import ConjugateGradients
from sggp.solvers.core import checkpoint, driver
from tests.solvers.dense import matern


class Killed(Exception):
    pass


@pytest.fixture
def arguments(generator):
    x = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    y = torch.sin(3 * x[:, 0]) + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    return {
        "kernel": matern(2),
        "x": x,
        "y": y,
        "noise_variance": 0.01,
        "num_samples": 8,
        "num_features": 64,
        "solver": ConjugateGradients(None),
    }


def test_a_killed_conditioning_goes_on_with_the_same_samples(arguments, tmp_path, monkeypatch):
    whole = condition(**arguments, generator=3)
    original, count = driver.describe_step, [0]

    def kill(*given):
        count[0] += 1
        if count[0] == 12:
            raise Killed
        original(*given)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_INTERVAL", 0.0)
        patched.setattr(driver, "describe_step", kill)
        with pytest.raises(Killed):
            condition(**arguments, generator=3, checkpoint=tmp_path / "c")
    resumed = condition(**arguments, generator=3, checkpoint=tmp_path / "c")
    assert any("resumed" in note for note in resumed.solution.notes)
    assert torch.equal(resumed.solution.x, whole.solution.x)
    points = arguments["x"][:5]
    assert torch.equal(resumed.samples(points), whole.samples(points))
    # the path is of one call: what the posterior solves later does not touch the file
    content = (tmp_path / "c").read_bytes()
    resumed.update(points + 0.1, arguments["y"][:5])
    assert (tmp_path / "c").read_bytes() == content


def test_it_needs_a_seed_and_the_same_one(arguments, tmp_path):
    with pytest.raises(InputError, match="generator"):
        condition(**arguments, checkpoint=tmp_path / "c")
    condition(**arguments, generator=3, checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match="right-hand side"):
        condition(**arguments, generator=4, checkpoint=tmp_path / "c")

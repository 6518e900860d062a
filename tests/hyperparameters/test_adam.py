"""Adam's steps, against torch's."""

from __future__ import annotations

import pytest
import torch

from sggp.hyperparameters.adam import Adam
from tests.scripts import Scripts

LEARNING = """
import sys
sys.modules["torch._dynamo"] = None  # importing it fails
import torch
from gpytorch.kernels import MaternKernel
from sggp.hyperparameters import fit_iterative, fit_nearest_neighbour
x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for fit in (fit_iterative, fit_nearest_neighbour):
    print(fit(MaternKernel(nu=1.5), x, x.sin().sum(1), max_steps=3, generator=0).steps)
"""


@pytest.mark.parametrize("betas", [(0.9, 0.9), (0.9, 0.99)])
def test_steps_are_those_of_torch(betas: tuple[float, float], generator: torch.Generator) -> None:
    u = torch.randn(7, generator=generator, dtype=torch.float64)
    expected, own = u.clone().requires_grad_(True), Adam(betas)
    theirs = torch.optim.Adam([expected], betas=betas)
    for step in range(60):
        gradient = torch.randn(7, generator=generator, dtype=torch.float64) * 10.0 ** (step % 9 - 4)
        gradient[step % 7] = 0.0
        theirs.param_groups[0]["lr"] = rate = 0.1 / (step + 1)
        expected.grad = gradient.clone()
        theirs.step()
        own.step(u, gradient, rate)
        torch.testing.assert_close(u, expected.detach(), rtol=1e-12, atol=1e-14)


def test_learning_loads_no_compiler(scripts: Scripts) -> None:
    done = scripts.run("-c", LEARNING)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2

"""sggp and GPyTorch: our Tanimoto kernel in GPyTorch's models, and GPyTorch's kernels in our solvers.

    python examples/gpytorch_models.py            # half a minute
    python examples/gpytorch_models.py --quick    # some seconds

* `ExactGP` with a scaled `TanimotoMinMax`, trained as GPyTorch trains.
* The same kernel in a sparse variational model (`ApproximateGP`) with some of the rows as inducing points.
* The trained kernel in `sggp.condition`: the same predictions by an iterative solve, and functions from the posterior.
"""

from __future__ import annotations

import argparse
from typing import Any

import gpytorch
import torch
from gpytorch.kernels import ScaleKernel
from torch import Tensor

from sggp import ConjugateGradients, TanimotoMinMax, condition


class Exact(gpytorch.models.ExactGP):
    """A constant mean and a scaled Tanimoto kernel."""

    def __init__(self, x: Tensor, y: Tensor, likelihood: gpytorch.likelihoods.GaussianLikelihood) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = ScaleKernel(TanimotoMinMax())

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class Sparse(gpytorch.models.ApproximateGP):
    """The same by variational inference at given inducing points, which stay fingerprints."""

    def __init__(self, inducing: Tensor) -> None:
        distribution = gpytorch.variational.CholeskyVariationalDistribution(len(inducing))
        strategy = gpytorch.variational.VariationalStrategy(
            self, inducing, distribution, learn_inducing_locations=False
        )
        super().__init__(strategy)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = ScaleKernel(TanimotoMinMax())

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def fingerprints(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Counts (n, 256) of forty kinds of molecules, and a property that a kind has, with noise of .1."""
    rates = 3 * torch.rand(40, 256, generator=generator, dtype=torch.float64) ** 4
    kinds = torch.randint(40, (n,), generator=generator)
    values = torch.randn(40, generator=generator, dtype=torch.float64)[kinds]
    noise = 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    return torch.poisson(rates[kinds], generator=generator), values + noise


def train(model: torch.nn.Module, loss_of: Any, table: tuple[Tensor, Tensor], steps: int) -> None:
    """Adam on GPyTorch's own objective, which is to be as large as possible."""
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -loss_of(model(table[0]), table[1])
        loss.backward()
        optimizer.step()
    model.eval()


def main() -> None:
    """Train both models, and solve with the kernel of the first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rows and steps")
    given = parser.parse_args()
    n, steps = (150, 15) if given.quick else (800, 60)
    x, y = fingerprints(n + 100, torch.Generator().manual_seed(0))
    table, new, truth = (x[:n], y[:n]), x[n:], y[n:]

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    exact = Exact(*table, likelihood).double()
    train(exact, gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, exact), table, steps)
    with torch.no_grad():
        mean = exact(new).mean
    print(f"ExactGP:         RMSE {float((mean - truth).square().mean().sqrt()):.3f}")

    noise = gpytorch.likelihoods.GaussianLikelihood().double()
    sparse = Sparse(table[0][: n // 3]).double()
    train(sparse, gpytorch.mlls.VariationalELBO(noise, sparse, n), table, steps)
    with torch.no_grad():
        print(f"ApproximateGP:   RMSE {float((sparse(new).mean - truth).square().mean().sqrt()):.3f}")

    posterior = condition(
        exact.covar_module,
        *table,
        noise_variance=likelihood.noise.item(),
        mean=exact.mean_module.constant.item(),
        solver=ConjugateGradients(),
        tolerance=1e-8,
        num_samples=16,
        generator=0,
    )
    apart = float((posterior.mean(new) - mean).abs().max())
    print(f"sggp.condition:  at most {apart:.1e} from ExactGP; {posterior.solution}")
    draws = posterior.samples(new)
    print(
        f"{len(draws)} functions at {draws.shape[1]} points, of mean variance {float(draws.var(0).mean()):.3f}"
    )


if __name__ == "__main__":
    main()

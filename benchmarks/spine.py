"""How long until the posterior mean is right: our solvers, GPyTorch's conjugate gradients, a dense factor.

POL, split 0, published hyperparameters (Matérn-3/2, one length scale per input), K never given. Every row solves
the same system in this process, from the inputs to the predictions on the test rows; "distance" is the relative
2-norm between its test mean and that of a float64 Cholesky factor. Runs in float32 but for the factor. GPyTorch runs
with its default preconditioner (rank 15) and with rank 100.

    python benchmarks/spine.py [--rows N] [--repeats R]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import gpytorch
import torch

from lib.common import header, print_table, seeded
from sggp.datasets import uci, uci_hyperparameters
from sggp.posterior import condition
from sggp.solvers import Cholesky, ConjugateGradients, StochasticDualDescent


def make_kernel(published) -> gpytorch.kernels.Kernel:
    base = gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=len(published.lengthscale))
    kernel = gpytorch.kernels.ScaleKernel(base).double()
    kernel.outputscale = torch.tensor(published.outputscale, dtype=torch.float64)
    base.lengthscale = torch.as_tensor(published.lengthscale, dtype=torch.float64)
    return kernel.requires_grad_(False)


def ours(
    kernel, x, y, xs, noise, solver, tolerance, dtype=torch.float32
) -> Callable[[], tuple[torch.Tensor, str]]:
    def run() -> tuple[torch.Tensor, str]:
        posterior = condition(
            kernel,
            x,
            y,
            noise_variance=noise,
            solver=solver,
            num_samples=0,
            tolerance=tolerance,
            generator=seeded(0),
            dtype=dtype,
            on_failure="return",
            memory_budget=8 * 2**30,
        )
        return posterior.mean(xs), f"{posterior.solution.epochs:.0f} passes, {posterior.solution.status[0]}"

    return run


class ExactModel(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood, kernel) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def gpytorch_cg(kernel, x, y, xs, noise, tolerance, rank) -> Callable[[], tuple[torch.Tensor, str]]:
    """GPyTorch's exact prediction with conjugate gradients forced, its preconditioner of the given rank."""

    def run() -> tuple[torch.Tensor, str]:
        likelihood = gpytorch.likelihoods.GaussianLikelihood()
        likelihood.noise = noise
        model = ExactModel(x.float(), y.float(), likelihood, kernel.float()).eval()
        likelihood.eval()
        settings = gpytorch.settings
        with (
            torch.no_grad(),
            settings.max_cholesky_size(0),
            settings.eval_cg_tolerance(tolerance),
            settings.max_cg_iterations(1000),
            settings.max_preconditioner_size(rank),
            settings.skip_posterior_variances(True),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            mean = model(xs.float()).mean
        unfinished = any("CG terminated" in str(w.message) for w in caught)
        return mean.double(), "stopped at 1000 steps" if unfinished else "its own tolerance met"

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=None, help="train on the first N rows only (a dry run)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="repeats of every row but the factor; medians are printed"
    )
    arguments = parser.parse_args()
    data, published = uci("pol", 0), uci_hyperparameters("pol", 0)
    x, y, xs, ys = (torch.as_tensor(a) for a in (data.x_train, data.y_train, data.x_test, data.y_test))
    x, y = x[: arguments.rows], y[: arguments.rows]
    kernel, noise = make_kernel(published), published.noise_variance
    header(
        f"POL split 0: {len(x)} train rows, {len(xs)} test rows, d = {x.shape[1]}, noise variance {noise:.3e}"
    )

    rows: dict[str, Callable[[], tuple[torch.Tensor, str]]] = {
        "ConjugateGradients, tolerance 1e-2": ours(kernel, x, y, xs, noise, ConjugateGradients(), 1e-2),
        "ConjugateGradients, tolerance 1e-3": ours(kernel, x, y, xs, noise, ConjugateGradients(), 1e-3),
        "GPyTorch CG, tolerance 0.01": gpytorch_cg(kernel, x, y, xs, noise, 0.01, 15),
        "GPyTorch CG, tolerance 0.01, preconditioner rank 100": gpytorch_cg(
            kernel, x, y, xs, noise, 0.01, 100
        ),
        "GPyTorch CG, tolerance 0.001": gpytorch_cg(kernel, x, y, xs, noise, 0.001, 15),
        "GPyTorch CG, tolerance 0.001, preconditioner rank 100": gpytorch_cg(
            kernel, x, y, xs, noise, 0.001, 100
        ),
        "StochasticDualDescent, tolerance 3e-2": ours(kernel, x, y, xs, noise, StochasticDualDescent(), 3e-2),
    }
    begin = time.perf_counter()
    exact, note = ours(kernel.double(), x, y, xs, noise, Cholesky(), 1e-3, torch.float64)()
    table = [("float64 Cholesky", time.perf_counter() - begin, exact, note)]
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    found: dict[str, tuple[torch.Tensor, str]] = {}
    for _ in range(arguments.repeats):  # one after the other in turn, so that a slow minute slows all
        for name, run in rows.items():
            begin = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - begin)
    table += [(name, statistics.median(seconds[name]), *found[name]) for name in rows]
    print_table(
        ["solver", "seconds", "test RMSE", "distance to exact mean", "note"],
        [
            [
                name,
                f"{spent:.1f}",
                f"{float((mean - ys).square().mean().sqrt()):.4f}",
                f"{float((mean - exact).norm() / exact.norm()):.1e}",
                note,
            ]
            for name, spent, mean, note in table
        ],
    )


if __name__ == "__main__":
    main()

"""What is random in the gradient of the marginal likelihood: the choice of probes, and the features they share.

Rows of split 0 of POL with published hyperparameters; tr(H⁻¹∂H) for every hyperparameter in its log coordinate, by s
probes and exactly. A line is one estimator: the root mean square, over hyperparameters and replicates, of its error,
each hyperparameter in units of the standard deviation that probes from N(0, H) itself have.

    N(0, H)         z = Lu with the dense factor L, v = H⁻¹z: vᵀ∂Hv, what probes would do without random features
    weights alone   z a prior draw by random features plus noise, v = H⁻¹z: vᵀ∂Hv, as published
    weights, duals  the same z and v, w = C⁻¹z with the covariance C of z given the features: vᵀ∂Hw, as `fit_iterative`

    python benchmarks/gradient.py [--rows N ...] [--features P ...] [--probes S] [--replicates R]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from lib.common import header, print_table, seeded
from lib.systems import System, uci_system
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.merged import MergedData
from sggp.kernels import as_covariance, kernel_gradient


def rows_of(system: System, rows: int) -> tuple[MergedData, Tensor]:
    """Some rows in random order, repeats merged, and the noise of each."""
    chosen = torch.randperm(system.n, generator=seeded(0))[:rows]
    return MergedData(system.x[chosen], system.y[chosen, None].double()), system.noise_vector[chosen]


def trace_function(coordinates: Coordinates, data: MergedData) -> Callable[[Tensor, Tensor], Tensor]:
    """(left, right) -> Σ_j left_jᵀ ∂H right_j in the coordinates."""
    u = coordinates.vector()
    named = dict(coordinates.kernel.named_parameters())

    def trace(left: Tensor, right: Tensor) -> Tensor:  # (g, s), (g, s) -> (p,)
        coordinates.assign(u)
        for name, grad in kernel_gradient(coordinates.kernel, data.rows, left, right).items():
            named[name].grad = grad
        torch.autograd.backward(coordinates.noise(), ((left * right).sum(dim=1) / data.counts).sum())
        return coordinates.gradient(u)

    return trace


def measured(system: System, rows: int, arguments: argparse.Namespace) -> list[list[str]]:
    data, noise = rows_of(system, rows)
    kernel = copy_kernel(system.kernel).requires_grad_(True)
    coordinates = Coordinates(kernel, initial_noise=float(noise[0]))
    trace = trace_function(coordinates, data)
    matrix = as_covariance(kernel).block(data.rows, data.rows).double()
    matrix.diagonal().add_(data.groups.noise(noise))
    lower = torch.linalg.cholesky(matrix)
    inverse = torch.cholesky_inverse(lower)
    exact = trace(inverse, torch.eye(data.size, dtype=torch.float64))
    s, errors = arguments.probes, {}
    for seed in range(arguments.replicates):
        unit = torch.randn(data.size, s, generator=seeded(seed), dtype=torch.float64)
        v = inverse @ (lower @ unit)
        errors.setdefault("N(0, H)", []).append(trace(v / s, v) - exact)
        for features in arguments.features:
            probes = Probes(kernel, data, s, features, seeded(seed))
            z = probes.at(kernel, noise)
            v, w = inverse @ z, probes.duals(kernel, noise, z)
            errors.setdefault(f"weights alone, {features} features", []).append(trace(v / s, v) - exact)
            errors.setdefault(f"weights, duals, {features} features", []).append(trace(v / s, w) - exact)
    unit_error = torch.stack(errors["N(0, H)"]).square().mean(dim=0).sqrt()
    label = f"{system.name} ({rows} rows, {data.size} distinct)"
    return [
        [label, name, f"{float((torch.stack(found) / unit_error).square().mean().sqrt()):.2f}"]
        for name, found in errors.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, nargs="*", default=[400, 1500, 3000], help="rows of POL")
    add("--features", type=int, nargs="*", default=[2048], help="random features of the prior draws")
    add("--probes", type=int, default=64, help="probes of an estimate")
    add("--replicates", type=int, default=20, help="independent estimates")
    arguments = parser.parse_args()
    header("error of the trace in the gradient of the marginal likelihood, beside that of the probes alone")
    system = uci_system("pol")
    table = [row for rows in arguments.rows for row in measured(system, rows, arguments)]
    print_table(["table", "estimator", "error"], table)


if __name__ == "__main__":
    main()

"""The gradient of the log marginal likelihood from solves: quadratic forms of targets and of probes.

With H = K + Σ, v_y = H⁻¹(y − m), probes z_j with E[z_j z_jᵀ] = H, v_j = H⁻¹z_j and their duals w_j (`Probes`),

    ∂L = ½ v_yᵀ ∂H v_y − ½ tr(H⁻¹∂H),    tr(H⁻¹∂H) = E[v_jᵀ ∂H w_j],

because E[v_j w_jᵀ] = H⁻¹.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gpytorch.kernels import ScaleKernel
from torch import Tensor

from sggp.hyperparameters.coordinates import Coordinates
from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.iterative.warm_start import WarmSolves, Weights
from sggp.hyperparameters.merged import MergedData
from sggp.kernels import kernel_gradient
from sggp.operators import KernelOperator

__all__ = ["Estimate", "PathwiseGradient"]

_GRADIENT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Estimate:
    """The gradient at one place.

    Attributes:
        gradient: (p,) of the log marginal likelihood plus log priors, in the coordinates.
        error: (p,) its standard error over the probes; NaN where it was not asked for.
        row_noise: (n,) noise variances. solved: mean and weights.
    """

    gradient: Tensor
    error: Tensor
    row_noise: Tensor
    solved: Weights

    @property
    def z_square(self) -> float:
        """Mean squared z-score of the gradient; about one or less once only the choice of probes is left of it."""
        known = self.error > 0
        if not bool(known.any()):
            return float("nan") if bool((self.gradient != 0).any()) else 0.0
        return float((self.gradient[known] / self.error[known]).square().mean())


class PathwiseGradient:
    """Estimates of the gradient with fixed base randomness and warm-started solves.

    Args:
        coordinates: of a private kernel and, where it is learnt, the noise.
        data: merged rows. probes: right-hand sides. solves: the solver.
        noise: the known noise variance, () or (n,), or None where `coordinates` learns it.
        mean: the known means (t,), or None for the generalised least-squares ones.
        tolerance: relative residual of targets and of probes; None takes `solve_tolerances`.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        data: MergedData,
        probes: Probes,
        solves: WarmSolves,
        *,
        noise: Tensor | None,
        mean: Tensor | None,
        tolerance: float | tuple[float, float] | None = None,
    ) -> None:
        self.coordinates, self.data, self.probes, self.solves = coordinates, data, probes, solves
        self.noise, self.mean, self.tolerance = noise, mean, tolerance

    def estimate(self, u: Tensor, *, parts: int = 1) -> Estimate:
        """The gradient at the coordinates u (p,); with `parts` > 1 groups of probes, its standard error as well.

        Cost: one solve of 1 + t + s columns; the duals; `parts` + 1 gradients of quadratic forms, O(n²·(d + s))
        together and another O(n²·d) for each part.
        """
        coordinates, data = self.coordinates, self.data
        coordinates.assign(u)
        noise = coordinates.noise().detach() if self.noise is None else self.noise
        row_noise = data.row_noise(noise)
        operator = self.solves.operator(coordinates.kernel, data.groups.noise(row_noise))
        z = self.probes.at(coordinates.kernel, row_noise)
        solved = self.solves.solve(operator, data.means(data.y, row_noise), z, self.mean, u, self.tolerance)
        weights, v, t = solved.targets, solved.probes, data.y.shape[1]
        # ½ v_yᵀ∂H v_y, then −½ v_jᵀ∂H w_j averaged over groups of probes: Lin et al. 2024, with duals on one side
        total = self._pulled(u, operator, 0.5 * weights, weights, whole=True)
        duals = self.probes.duals(coordinates.kernel, row_noise, z)
        right = v if duals is None else duals
        terms = [
            self._pulled(u, operator, (-0.5 * t / part.numel()) * v[:, part], right[:, part])
            for part in torch.arange(v.shape[1]).tensor_split(max(1, min(parts, v.shape[1])))
        ]
        stack = torch.stack(terms)
        error = torch.full_like(total, float("nan"))
        if len(stack) > 1 and u.numel():
            error = stack.std(dim=0) / len(stack) ** 0.5
        return Estimate(total + stack.mean(dim=0), error, row_noise, solved)

    def _pulled(
        self, u: Tensor, operator: KernelOperator, left: Tensor, right: Tensor, *, whole: bool = False
    ) -> Tensor:
        """Σ_j left_jᵀ ∂H right_j in the coordinates; with `whole`, priors and repeats as well."""
        coordinates, kernel = self.coordinates, self.coordinates.kernel
        if not coordinates.size:
            return torch.zeros_like(u)
        coordinates.assign(u)  # clears the gradients
        for name, grad in _kernel_part(kernel, operator, left, right).items():
            kernel.get_parameter(name).grad = grad
        prior = coordinates.log_prior(u)[1] if whole else torch.zeros_like(u)
        with torch.enable_grad():
            if self.noise is None:
                # ∂H/∂σ² = I/r for r repeats: Σ_j left_jᵀ ∂H right_j without a product
                noise = coordinates.noise()
                total = ((left * right).sum(dim=1) / self.data.counts).sum() * noise
                total = total + self.data.within(noise) if whole else total
                total.backward()
        return coordinates.gradient(u) + prior


def _kernel_part(kernel: Any, operator: KernelOperator, left: Tensor, right: Tensor) -> dict[str, Tensor]:
    """`kernel_gradient`; by one product with K where nothing but the outermost scale is learnt."""
    wanted = [name for name, p in kernel.named_parameters() if p.requires_grad]
    if not wanted:
        return {}
    if isinstance(kernel, ScaleKernel) and wanted == ["raw_outputscale"]:
        product = operator.matmul(right.to(operator.dtype)).double()
        product -= operator.noise_variance[:, None] * right
        with torch.enable_grad():
            scale = kernel.outputscale
            slope = (left * product).sum() / scale.detach()
            (raw,) = torch.autograd.grad(scale, kernel.raw_outputscale, slope.reshape(scale.shape).to(scale))
        return {"raw_outputscale": raw}
    return kernel_gradient(kernel, operator.x, left, right, memory_budget=_GRADIENT_BYTES)

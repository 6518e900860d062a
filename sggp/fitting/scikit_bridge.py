"""A scikit-learn kernel behind GPyTorch's interface: its values and its own gradient, so that it can be learnt."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import GreaterThan, Interval
from gpytorch.kernels import Kernel
from sklearn.gaussian_process import kernels as sk
from torch import Tensor

from sggp.errors import NoRandomFeatures, UnlearntKernel
from sggp.kernels import draw_features
from sggp.kernels.features.base import FeatureMap
from sggp.kernels.features.spectral import SpectralLaw
from sggp.kernels.features.stationary import PhaseTerm, fourier_map, per_column
from sggp.native.families import student_spectrum


class ScikitLearnKernel(Kernel):
    """Any scikit-learn kernel, evaluated by itself; learnt by its own gradient in theta where it has one.

    Args:
        kernel: a `sklearn.gaussian_process.kernels.Kernel` without a WhiteKernel in it.
        input_dim: columns it is given, to try its gradient on; None takes it for granted.

    Attributes:
        names: its free hyperparameters, by scikit-learn's names: each has a parameter of that name here, in its own
            units and bounds. Empty where it has no gradient.
        unlearnt: free hyperparameters that stay as they are, since it has no gradient.

    Cost: evaluated by NumPy on the CPU, once per block; a gradient of p entries makes p more blocks.
    """

    is_stationary = False
    has_lengthscale = False

    def __init__(self, kernel: sk.Kernel, input_dim: int | None = None) -> None:
        super().__init__()
        self.kernel = kernel
        # GPyTorch derives batch shape, dtype and device from parameters, so there has to be one
        self.register_parameter("_tracker", torch.nn.Parameter(torch.zeros(1), requires_grad=False))
        free = [h for h in kernel.hyperparameters if not h.fixed]
        has_gradient = not free or input_dim is None or _has_gradient(kernel, input_dim)
        self.names = [h.name for h in free] if has_gradient else []
        self.unlearnt = [] if has_gradient else [h.name for h in free]
        start = np.exp(kernel.theta)
        for h in free if has_gradient else []:
            values, start = start[: h.n_elements], start[h.n_elements :]
            low, high = float(h.bounds[:, 0].min()), float(h.bounds[:, 1].max())
            constraint = Interval(low, high) if np.isfinite(high) else GreaterThan(low)
            inside = torch.from_numpy(np.clip(values, low * (1 + 1e-7), high * (1 - 1e-7)))
            self.register_parameter(f"raw_{h.name}", torch.nn.Parameter(inside))
            self.register_constraint(f"raw_{h.name}", constraint.double())
            with torch.no_grad():
                getattr(self, f"raw_{h.name}").copy_(constraint.inverse_transform(inside))

    def learnt(self) -> sk.Kernel:
        """The scikit-learn kernel with the values of this one's parameters."""
        return self._with(self._theta().detach().double().cpu().numpy())

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """(..., n, m) covariances, or the (..., n) diagonal k(x1_i, x2_i); differentiable in the parameters alone."""
        shape = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
        left = x1.expand(*shape, *x1.shape[-2:]).reshape(-1, *x1.shape[-2:]).detach().cpu().numpy()
        right = x2.expand(*shape, *x2.shape[-2:]).reshape(-1, *x2.shape[-2:]).detach().cpu().numpy()
        theta = self._theta()
        if diag or not (torch.is_grad_enabled() and theta.requires_grad):
            kernel = self._with(theta.detach().double().cpu().numpy())
            of = partial(_pairs, kernel) if diag else kernel
            value = torch.from_numpy(np.stack([of(a, b) for a, b in zip(left, right, strict=True)]))
        else:
            value = _Values.apply(theta, self._with, left, right)
        return value.to(x1).reshape(*shape, *value.shape[1:])

    def _theta(self) -> Tensor:  # (p,) logarithms, in scikit-learn's order
        parts = []
        for name in self.names:
            constraint = getattr(self, f"raw_{name}_constraint")
            parts.append(constraint.transform(getattr(self, f"raw_{name}")).log().reshape(-1))
        return torch.cat(parts) if parts else self._tracker.new_zeros(0)

    def _with(self, theta: np.ndarray) -> sk.Kernel:
        return self.kernel.clone_with_theta(theta) if len(theta) else self.kernel


def warn_unlearnt(kernel: Kernel) -> None:
    """Say which parameters of scikit-learn kernels inside were not learnt."""
    for part in kernel.modules():
        if isinstance(part, ScikitLearnKernel) and part.unlearnt:
            warnings.warn(
                f"{', '.join(part.unlearnt)} of {part.kernel} stay as given: the kernel has no gradient "
                "(eval_gradient) and no equal in GPyTorch. Give it one, choose them by GridSearchCV, or fix them "
                "(bounds 'fixed') to be rid of this warning.",
                UnlearntKernel,
                stacklevel=4,
            )


class _Values(torch.autograd.Function):
    """Blocks (b, n, m) of a kernel with some theta; scikit-learn has gradients of whole matrices only."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, kernel_of: Any, left: np.ndarray, right: np.ndarray) -> Tensor:
        kernel = kernel_of(theta.detach().double().cpu().numpy())
        same, n = np.array_equal(left, right), left.shape[1]
        values, slopes = [], []
        for a, b in zip(left, right, strict=True):
            value, slope = kernel(a if same else np.concatenate([a, b]), eval_gradient=True)
            values.append(value if same else value[:n, n:])
            slopes.append(slope if same else slope[:n, n:])
        ctx.save_for_backward(torch.from_numpy(np.stack(slopes)))
        ctx.like = theta
        return torch.from_numpy(np.stack(values))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return torch.einsum("bnm,bnmp->p", upstream[0].to(slopes), slopes).to(ctx.like), None, None, None


def _pairs(kernel: sk.Kernel, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.array_equal(a, b):
        return np.asarray(kernel.diag(a))
    return np.array([kernel(u[None], v[None])[0, 0] for u, v in zip(a, b, strict=True)])


def _has_gradient(kernel: sk.Kernel, input_dim: int) -> bool:
    rows = np.linspace(0.1, 0.9, 3 * input_dim).reshape(3, input_dim)
    try:
        _, slope = kernel(rows, eval_gradient=True)
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return False
    return slope.shape == (3, 3, len(kernel.theta))


@draw_features.register(ScikitLearnKernel)
def _features(
    kernel: ScikitLearnKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FeatureMap:
    """Of a Matérn kernel of any smoothness: |ω|² of a multivariate Student-t with 2ν degrees of freedom."""
    given = kernel.learnt()
    if type(given) is not sk.Matern:
        raise NoRandomFeatures(
            f"cannot draw random features for {given}: scikit-learn's kernels have none but Matern of any nu and what "
            "GPyTorch has as well. Fit with up to 3,000 rows, or pass a GPyTorch kernel."
        )
    scale = torch.as_tensor(np.atleast_1d(given.length_scale), dtype=torch.float64)
    radius = partial(student_spectrum, d=input_dim, nu=float(given.nu))
    law = SpectralLaw((radius,), per_column(scale, input_dim, "length scale").reciprocal())
    return fourier_map([PhaseTerm(torch.empty(input_dim, 0), law=law)], num_features, input_dim, generator)

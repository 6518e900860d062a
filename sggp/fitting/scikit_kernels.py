"""scikit-learn's Gaussian process kernels as GPyTorch kernels."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.kernels import ConstantKernel as TorchConstant
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, RQKernel, ScaleKernel
from sklearn.gaussian_process import kernels as sk
from torch import Tensor

from sggp.errors import UnsupportedKernel


class ScikitLearnKernel(Kernel):
    """Any scikit-learn kernel behind GPyTorch's interface, evaluated by numpy; its parameters stay as they are.

    Args:
        kernel: a `sklearn.gaussian_process.kernels.Kernel` without a WhiteKernel in it.
    """

    is_stationary = False
    has_lengthscale = False

    def __init__(self, kernel: sk.Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        # GPyTorch derives batch shape, dtype and device from parameters, so there has to be one
        self.register_parameter("_tracker", torch.nn.Parameter(torch.zeros(1), requires_grad=False))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """(..., n, m) covariances, or the (..., n) diagonal k(x1_i, x2_i); not differentiable."""
        shape = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
        left = x1.expand(*shape, *x1.shape[-2:]).reshape(-1, *x1.shape[-2:]).detach().cpu().numpy()
        right = x2.expand(*shape, *x2.shape[-2:]).reshape(-1, *x2.shape[-2:]).detach().cpu().numpy()
        blocks = [self._pairs(a, b) if diag else self.kernel(a, b) for a, b in zip(left, right, strict=True)]
        value = torch.as_tensor(np.stack(blocks), dtype=x1.dtype, device=x1.device)
        return value.reshape(*shape, *value.shape[1:])

    def _pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if np.array_equal(a, b):
            return np.asarray(self.kernel.diag(a))
        return np.array([self.kernel(u[None], v[None])[0, 0] for u, v in zip(a, b, strict=True)])


@dataclass(frozen=True)
class Converted:
    """A GPyTorch kernel and the white noise that was part of the scikit-learn kernel (None where there was none)."""

    kernel: Kernel
    noise_variance: float | None
    noise_fixed: bool


def from_scikit_learn(kernel: sk.Kernel) -> Converted:
    """Turn a scikit-learn kernel into a GPyTorch kernel with the same values, bounds and fixed parameters.

    RBF, Matern (nu 1/2, 3/2, 5/2, inf), RationalQuadratic, ConstantKernel, sums and products are converted,
    so they can be learnt; anything else is evaluated as it is, at the values it has. WhiteKernel terms of
    the outermost sum become the noise variance.

    Raises:
        UnsupportedKernel: a WhiteKernel inside a product or a power, or nothing but white noise.
    """
    terms = _terms(kernel)
    white = [term for term in terms if isinstance(term, sk.WhiteKernel)]
    signal = [_convert(term) for term in terms if not isinstance(term, sk.WhiteKernel)]
    if not signal:
        raise UnsupportedKernel("the kernel is white noise only; add one that correlates different rows.")
    return Converted(
        reduce(operator.add, signal).double(),
        sum(float(term.noise_level) for term in white) if white else None,
        bool(white) and all(_is_fixed(term.noise_level_bounds) for term in white),
    )


def _terms(kernel: sk.Kernel) -> list[sk.Kernel]:
    return [*_terms(kernel.k1), *_terms(kernel.k2)] if isinstance(kernel, sk.Sum) else [kernel]


def _convert(kernel: sk.Kernel) -> Kernel:
    if any(isinstance(part, sk.WhiteKernel) for part in (kernel, *kernel.get_params().values())):
        raise UnsupportedKernel(
            f"{kernel} has a WhiteKernel inside a product or a power; add it as a term of the outermost sum, or pass "
            "noise_variance instead."
        )
    if isinstance(kernel, sk.Sum):
        return _convert(kernel.k1) + _convert(kernel.k2)
    if isinstance(kernel, sk.Product):
        for scale, other in ((kernel.k1, kernel.k2), (kernel.k2, kernel.k1)):
            if isinstance(scale, sk.ConstantKernel):
                return _set(ScaleKernel(_convert(other)), "outputscale", scale, "constant_value")
        return _convert(kernel.k1) * _convert(kernel.k2)
    handler = _LEAVES.get(type(kernel))
    return ScikitLearnKernel(kernel) if handler is None else handler(kernel)


def _is_fixed(bounds: Any) -> bool:
    return isinstance(bounds, str) and bounds == "fixed"


def _set(kernel: Kernel, name: str, given: sk.Kernel, parameter: str) -> Kernel:
    """Give `kernel.name` the value and bounds of a parameter of `given`; fixed ones are out of the optimisation."""
    kernel.double()
    bounds = getattr(given, f"{parameter}_bounds")
    values = torch.as_tensor(np.atleast_1d(np.asarray(getattr(given, parameter), dtype=float)))
    constraint: Interval = Positive()
    if not _is_fixed(bounds):
        pairs = np.atleast_2d(np.asarray(bounds, dtype=float))
        low, high = float(pairs[:, 0].min()), float(pairs[:, 1].max())
        constraint, values = Interval(low, high), values.clamp(low * (1 + 1e-7), high * (1 - 1e-7))
    kernel.register_constraint(f"raw_{name}", constraint)
    raw = getattr(kernel, f"raw_{name}")
    setattr(kernel, name, values.reshape(raw.shape))
    raw.requires_grad_(not _is_fixed(bounds))
    return kernel


def _ard(kernel: Any) -> int | None:
    length = np.atleast_1d(kernel.length_scale)
    return len(length) if len(length) > 1 else None


def _rbf(kernel: Any) -> Kernel:
    return _set(RBFKernel(ard_num_dims=_ard(kernel)), "lengthscale", kernel, "length_scale")


def _matern(kernel: Any) -> Kernel:
    if np.isinf(kernel.nu):
        return _rbf(kernel)
    if kernel.nu not in (0.5, 1.5, 2.5):
        return ScikitLearnKernel(kernel)
    out = MaternKernel(nu=float(kernel.nu), ard_num_dims=_ard(kernel))
    return _set(out, "lengthscale", kernel, "length_scale")


_LEAVES: dict[type, Callable[[Any], Kernel]] = {
    sk.RBF: _rbf,
    sk.Matern: _matern,
    sk.RationalQuadratic: lambda kernel: _set(
        _set(RQKernel(), "lengthscale", kernel, "length_scale"), "alpha", kernel, "alpha"
    ),
    sk.ConstantKernel: lambda kernel: _set(TorchConstant(), "constant", kernel, "constant_value"),
}

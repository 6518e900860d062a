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
from gpytorch.kernels import (
    Kernel,
    MaternKernel,
    PeriodicKernel,
    ProductKernel,
    RBFKernel,
    RQKernel,
    ScaleKernel,
)
from sklearn.gaussian_process import kernels as sk

from sggp.errors import UnsupportedKernel
from sggp.fitting.scikit_bridge import ScikitLearnKernel
from sggp.kernels.linear import DenseLinearKernel

_POWERS = (2, 3, 4)


@dataclass(frozen=True)
class Converted:
    """A GPyTorch kernel and the white noise that was part of the scikit-learn kernel (None where there was none)."""

    kernel: Kernel
    noise_variance: float | None
    noise_fixed: bool


def from_scikit_learn(kernel: sk.Kernel, input_dim: int | None = None) -> Converted:
    """Turn a scikit-learn kernel into a GPyTorch kernel with the same values, bounds and fixed parameters.

    RBF, Matern (nu 1/2, 3/2, 5/2, inf), RationalQuadratic, ConstantKernel, DotProduct, ExpSineSquared of one column,
    PairwiseKernel of metric "linear", "rbf" and (one column) "laplacian", powers 2 to 4, sums and products become
    GPyTorch kernels; anything else is a `ScikitLearnKernel`, which is learnt by scikit-learn's own gradient.
    WhiteKernel terms of the outermost sum become the noise variance. A kernel of your own may have a method
    `as_gpytorch()`, which gives its equal.

    Args:
        kernel: the kernel. input_dim: columns that it is given; None if not known.

    Raises:
        UnsupportedKernel: a WhiteKernel inside a product or a power, or nothing but white noise.
    """
    terms = _terms(kernel)
    white = [term for term in terms if isinstance(term, sk.WhiteKernel)]
    signal = [_convert(term, input_dim) for term in terms if not isinstance(term, sk.WhiteKernel)]
    if not signal:
        raise UnsupportedKernel("the kernel is white noise only; add one that correlates different rows.")
    return Converted(
        reduce(operator.add, signal).double(),
        sum(float(term.noise_level) for term in white) if white else None,
        bool(white) and all(_is_fixed(term.noise_level_bounds) for term in white),
    )


def _terms(kernel: sk.Kernel) -> list[sk.Kernel]:
    return [*_terms(kernel.k1), *_terms(kernel.k2)] if isinstance(kernel, sk.Sum) else [kernel]


def _convert(kernel: sk.Kernel, d: int | None) -> Kernel:
    if any(isinstance(part, sk.WhiteKernel) for part in (kernel, *kernel.get_params().values())):
        raise UnsupportedKernel(
            f"{kernel} has a WhiteKernel inside a product or a power; add it as a term of the outermost sum, or pass "
            "noise_variance instead."
        )
    if isinstance(kernel, sk.Sum):
        return _convert(kernel.k1, d) + _convert(kernel.k2, d)
    if isinstance(kernel, sk.Product):
        for scale, other in ((kernel.k1, kernel.k2), (kernel.k2, kernel.k1)):
            if isinstance(scale, sk.ConstantKernel):
                return _set(ScaleKernel(_convert(other, d)), "outputscale", scale, "constant_value")
        return _convert(kernel.k1, d) * _convert(kernel.k2, d)
    if type(kernel) is sk.Exponentiation and kernel.exponent in _POWERS:
        base = _convert(kernel.kernel, d)
        return ProductKernel(*[base] * int(kernel.exponent))  # the same one: its parameters are learnt once
    if hasattr(kernel, "as_gpytorch"):
        return kernel.as_gpytorch()
    handler = _LEAVES.get(type(kernel))
    found = None if handler is None else handler(kernel, d)
    return ScikitLearnKernel(kernel, d) if found is None else found


def _is_fixed(bounds: Any) -> bool:
    return isinstance(bounds, str) and bounds == "fixed"


def _set(
    kernel: Kernel, name: str, given: sk.Kernel, parameter: str, power: float = 1.0, factor: float = 1.0
) -> Kernel:
    """Give `kernel.name` the value and bounds of factor · parameter^power; fixed ones are out of the optimisation."""
    kernel.double()
    bounds = getattr(given, f"{parameter}_bounds")
    values = torch.as_tensor(factor * np.atleast_1d(np.asarray(getattr(given, parameter), float)) ** power)
    constraint: Interval = Positive()
    if not _is_fixed(bounds):
        pairs = factor * np.atleast_2d(np.asarray(bounds, dtype=float)) ** power
        low, high = float(pairs.min()), float(pairs.max())
        constraint, values = Interval(low, high).double(), values.clamp(low * (1 + 1e-7), high * (1 - 1e-7))
    kernel.register_constraint(f"raw_{name}", constraint)
    raw = getattr(kernel, f"raw_{name}")
    setattr(kernel, name, values.reshape(raw.shape))
    raw.requires_grad_(not _is_fixed(bounds))
    return kernel


def _ard(kernel: Any) -> int | None:
    length = np.atleast_1d(kernel.length_scale)
    return len(length) if len(length) > 1 else None


def _rbf(kernel: Any, d: int | None) -> Kernel:
    return _set(RBFKernel(ard_num_dims=_ard(kernel)), "lengthscale", kernel, "length_scale")


def _matern(kernel: Any, d: int | None) -> Kernel | None:
    if np.isinf(kernel.nu):
        return _rbf(kernel, d)
    if kernel.nu not in (0.5, 1.5, 2.5):
        return None
    out = MaternKernel(nu=float(kernel.nu), ard_num_dims=_ard(kernel))
    return _set(out, "lengthscale", kernel, "length_scale")


def _rational_quadratic(kernel: Any, d: int | None) -> Kernel:
    return _set(_set(RQKernel(), "lengthscale", kernel, "length_scale"), "alpha", kernel, "alpha")


def _constant(kernel: Any, d: int | None) -> Kernel:
    return _set(TorchConstant(), "constant", kernel, "constant_value")


def _periodic(kernel: Any, d: int | None) -> Kernel | None:
    """exp(−2 sin²(π δ/p) / ℓ²) of one column; GPyTorch's has ℓ for ℓ², and is a product over columns."""
    if d != 1:
        return None
    out = _set(PeriodicKernel(), "lengthscale", kernel, "length_scale", 2.0)
    return _set(out, "period_length", kernel, "periodicity")


def _linear() -> Kernel:
    out = DenseLinearKernel().double()
    out.variance = torch.ones_like(out.variance)
    return out.requires_grad_(False)


def _dot_product(kernel: Any, d: int | None) -> Kernel:
    """σ₀² + x·z."""
    return _linear() + _set(TorchConstant(), "constant", kernel, "sigma_0", 2.0)


def _pairwise(kernel: Any, d: int | None) -> Kernel | None:
    if kernel.pairwise_kernels_kwargs:
        return None
    if kernel.metric == "linear":
        return _linear()
    if kernel.metric == "rbf":  # exp(−γ δ²)
        return _set(RBFKernel(), "lengthscale", kernel, "gamma", -0.5, 0.5**0.5)
    if kernel.metric == "laplacian" and d == 1:  # exp(−γ |δ|)
        return _set(MaternKernel(nu=0.5), "lengthscale", kernel, "gamma", -1.0)
    return None


_LEAVES: dict[type, Callable[[Any, int | None], Kernel | None]] = {
    sk.RBF: _rbf,
    sk.Matern: _matern,
    sk.RationalQuadratic: _rational_quadratic,
    sk.ConstantKernel: _constant,
    sk.ExpSineSquared: _periodic,
    sk.DotProduct: _dot_product,
    sk.PairwiseKernel: _pairwise,
}

"""`check_features`: does a kernel's random-feature map keep the promises of `FeatureMap`?"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.checks import whole_number
from sggp.errors import DtypeError, ShapeError
from sggp.kernels.features import FeatureMap, draw_features
from sggp.random import as_generator
from sggp.typing import Seed

DrawRule = Callable[..., FeatureMap]


def check_features(
    kernel: Kernel,
    x: Tensor,
    *,
    generator: Seed,
    num_features: int = 64,
    num_maps: int = 200,
    standard_errors: float = 4.0,
    draw: DrawRule = draw_features,
) -> list[str]:
    """List what is wrong with the random features of `kernel`; an empty list means nothing was found.

    Checked, in this order: shapes and dtypes, integer input where `x` is whole; equal generator states give
    equal maps, unequal states other maps; a row's features depend neither on its batch-mates nor on leading dimensions;
    `apply` is `phi(x) @ weights`; a pickled map is the same map; a map does not change with the kernel's parameters;
    `differentiable` says the truth; the mean of φ(x)φ(x)ᵀ over `num_maps` independent maps is the kernel matrix, within
    `standard_errors` standard errors everywhere; and torch's global random numbers are left alone.

    Args:
        kernel: the kernel, also the oracle: its own matrix in float64. Give it a scale other than 1.
        x: (n, d) float64 points at which to compare, a handful, at several distances.
        generator: seed or CPU generator of all draws.
        num_features: features per map.
        num_maps: independent maps averaged, 2 or more.
        standard_errors: width of the acceptance interval; 4 lets through all but 6 in 100,000 correct entries.
        draw: what draws a map; `draw_features` unless a rule is tried out before it is registered.

    Returns:
        One sentence per violation; those of shapes and dtypes alone if there are any, as the rest needs them right.

    Raises:
        DtypeError, ShapeError, InputError: an argument cannot be used. What the rule raises.

    Cost: `num_maps` draws and evaluations at n points.

    Example:
        >>> import gpytorch, torch
        >>> check_features(gpytorch.kernels.RBFKernel(), torch.randn(4, 2).double(), generator=0, num_maps=50)
        []
    """
    if not isinstance(kernel, Kernel):
        raise DtypeError(f"kernel must be a gpytorch.kernels.Kernel, got {type(kernel).__name__}.")
    if not isinstance(x, Tensor) or x.ndim != 2 or 0 in x.shape:
        raise ShapeError("x must be a torch.Tensor of points (n, d), a handful.")
    whole_number(num_maps, "num_maps", least=2)
    x = x.detach().to(torch.float64)
    kernel = copy.deepcopy(kernel).to(torch.float64)
    root, before = as_generator(generator), torch.get_rng_state()

    def fresh(source: torch.Generator = root) -> FeatureMap:
        return draw(kernel, num_features, input_dim=x.shape[-1], generator=source)

    first: Any = fresh()
    if not isinstance(first, FeatureMap):
        return [f"what is drawn is no FeatureMap but {type(first).__name__}"]
    misshapen = list(_shapes(first, x))
    if misshapen:  # what follows compares numbers, entry by entry
        return misshapen
    found = [
        *_seeds(fresh, x),
        *_rows(fresh(), x),
        *_frozen(fresh(), kernel, x),
        *_gradients(fresh(), x),
        *_unbiased(fresh, kernel, x, num_maps, standard_errors),
    ]
    if not torch.equal(before, torch.get_rng_state()):
        found.append("torch's global random numbers are drawn or seeded instead of those of the generator")
    return found


def _shapes(features: FeatureMap, x: Tensor) -> Iterator[str]:
    if features.input_dim != x.shape[-1]:
        yield f"input_dim is {features.input_dim} for points with {x.shape[-1]} columns"
    expected = (len(x), features.num_features)
    for dtype in (torch.float64, torch.float32):
        phi = features.phi(x.to(dtype))
        if tuple(phi.shape) != expected:
            yield f"phi of {len(x)} points has shape {tuple(phi.shape)}, expected {expected}"
        if phi.dtype != dtype:
            yield f"phi of {dtype} points is {phi.dtype}"
    if bool((x == x.round()).all()) and bool((x.abs() < 128).all()):
        integer = x.to(torch.uint8 if bool((x >= 0).all()) else torch.int64)
        phi = features.phi(integer)
        if phi.dtype != features.dtype:
            yield f"phi of integer points is {phi.dtype}, the map's dtype is {features.dtype}"
        if not _close(phi.to(torch.float64), features.phi(x), 1e-4):
            yield "phi of integer points differs from phi of the same points as floats"


def _seeds(fresh: Callable[..., FeatureMap], x: Tensor) -> Iterator[str]:
    first, second, other = (fresh(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    if not torch.equal(first.phi(x), second.phi(x)):
        yield "equal generator states gave different maps"
    if not first.exact and torch.equal(first.phi(x), other.phi(x)):
        yield "different generator states gave the same map: the generator is not used"


def _rows(features: FeatureMap, x: Tensor) -> Iterator[str]:
    phi = features.phi(x)
    if not torch.equal(phi, features.phi(x)):
        yield "phi called twice gave different numbers"
    single = torch.cat([features.phi(x[i : i + 1]) for i in range(len(x))])
    if not _close(phi, single):
        yield "features of a row depend on the other rows of the batch"
    if not _close(features.phi(torch.stack((x, x.flip(0)))), torch.stack((phi, phi.flip(0)))):
        yield "phi of batched points (2, n, d) differs from phi of each batch"
    weights = torch.linspace(-1.0, 1.0, 2 * features.num_features, dtype=torch.float64).reshape(-1, 2)
    if not _close(features.apply(x, weights, memory_budget=1), phi @ weights):
        yield "apply(x, weights) differs from phi(x) @ weights"
    if not torch.equal(pickle.loads(pickle.dumps(features)).phi(x), phi):
        yield "a pickled and unpickled map gives different features"


def _frozen(features: FeatureMap, kernel: Kernel, x: Tensor) -> Iterator[str]:
    """The kernel is a copy of the caller's; its parameters are moved and brought back."""
    phi, state = features.phi(x), copy.deepcopy(kernel.state_dict())
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.5)
    moved = features.phi(x)
    kernel.load_state_dict(state)
    if not torch.equal(moved, phi):
        yield "phi changes with the parameters of the kernel after it was drawn: a map holds copies, and is frozen"


def _gradients(features: FeatureMap, x: Tensor) -> Iterator[str]:
    points = x.clone().requires_grad_(True)
    phi = features.phi(points)
    if not features.differentiable:
        if phi.requires_grad:
            yield "differentiable is False but phi(x) carries a gradient"
        return
    if not phi.requires_grad:
        yield "differentiable is True but phi(x) carries no gradient"
        return
    (gradient,) = torch.autograd.grad(phi.sum(), points)
    if not bool(torch.isfinite(gradient).all()):
        yield "the gradient of phi has NaN or infinite entries"


def _unbiased(
    fresh: Callable[[], FeatureMap], kernel: Kernel, x: Tensor, num_maps: int, standard_errors: float
) -> Iterator[str]:
    with torch.no_grad():
        target = kernel(x, x.clone()).to_dense()
        total, squares = torch.zeros_like(target), torch.zeros_like(target)
        for _ in range(num_maps):
            phi = fresh().phi(x)
            error = phi @ phi.mT - target
            total += error
            squares += error.square()
    mean = total / num_maps
    spread = ((squares / num_maps - mean.square()).clamp(min=0.0) / max(1, num_maps - 1)).sqrt()
    floor = 1e-9 * target.abs().max()
    excess = mean.abs() / (standard_errors * spread + floor)
    if float(excess.max()) > 1.0:
        i, j = divmod(int(excess.argmax()), len(x))
        yield (
            f"biased: over {num_maps} maps the mean of phi(x_{i})·phi(x_{j}) is {target[i, j] + mean[i, j]:.6g} ± "
            f"{spread[i, j]:.2g}, the kernel is {target[i, j]:.6g}"
        )


def _close(left: Tensor, right: Tensor, tolerance: float = 1e-9) -> bool:
    return left.shape == right.shape and bool(torch.allclose(left, right, rtol=tolerance, atol=tolerance))

"""What stands for the points of a box, seen from afar: a few nodes, between which kernels are interpolated.

Candidates are Chebyshev nodes of the box. A rank-revealing QR of the kernel between them and points that are far from
the box, on the nearest surface and beyond, chooses r of them, and says how values at all candidates follow from values
at those. So for x in the box and any z well separated from it k(x, z) ≈ Σ_i e_i(x) k(y_i, z), with the same r nodes y
for all boxes of a level, and both sides of a block are treated alike.

Sources: W. Fong and E. Darve, "The black-box fast multipole method", J. Comput. Phys. 228 (2009); H. Cheng,
Z. Gimbutas, P. Martinsson and V. Rokhlin, "On the compression of low rank matrices", SIAM J. Sci. Comput. 26 (2005).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from scipy.linalg import qr, solve_triangular
from torch import Tensor

from sggp.native.families import Profile
from sggp.native.reference import profile_values

__all__ = ["Basis", "basis_for", "kernel_between"]

_LEAST_ORDER, _MOST_ORDER = 2, 14
_PROBES, _TESTS = 1500, 96
_MOST_PROBES = 2
"""Times as many of both for boxes that are many length scales wide, whose kernels see little of one another."""
_SKETCH = 40
_SHELL = 3.5
"""Half sides of the region of children of near boxes, in sides."""


@dataclass(frozen=True)
class Basis:
    """Nodes of the boxes of one level.

    Attributes:
        extent: (d,) of the boxes. orders: Chebyshev nodes in each direction.
        nodes: (r, d) float64 from the middle of a box. coefficients: (P, r) float64: values at all candidates from
            those at the nodes.
        error: the largest error of k(x, z) seen for random x and z, relative to k(x, x). Beyond the
            tolerance there may be no nodes.
    """

    extent: Tensor
    orders: tuple[int, ...]
    nodes: Tensor
    coefficients: Tensor
    error: float

    @property
    def rank(self) -> int:
        """r."""
        return len(self.nodes)

    def factors(self, x: Tensor) -> list[Tensor]:  # (..., d) -> d times (..., p_k)
        """Lagrange polynomials of each direction at points relative to the middle of their box, in the type of x."""
        half = (self.extent / 2).tolist()
        return [_lagrange(x[..., k] / half[k] if p > 1 else x[..., k], p) for k, p in enumerate(self.orders)]

    def values(self, x: Tensor) -> Tensor:  # (n, d) -> (n, r)
        """e_i(x): weights of the nodes."""
        return _tensor_product(self.factors(x)) @ self.coefficients


def kernel_between(x: Tensor, z: Tensor, profile: Profile) -> Tensor:  # (n, d), (m, d) -> (n, m)
    """φ(|x − z|²) in float64, the scale left out."""
    squared = torch.zeros(len(x), len(z), dtype=torch.float64)
    for k in range(x.shape[1]):
        difference = x[:, k, None] - z[None, :, k]
        squared.addcmul_(difference, difference)
    return profile_values(squared, profile)


@functools.lru_cache(maxsize=64)
def basis_for(
    side: float, extents: tuple[float, ...], reaches: tuple[float, ...], profile: Profile, tolerance: float
) -> Basis:
    """Nodes by which k(x, z) is interpolated within a tolerance, of boxes with cubes of a side.

    Args:
        side: of the cubes. extents: of boxes inside them. reaches: how far points can be from a box.
        profile: φ, of scale one. tolerance: absolute.

    Cost: P² r for P Chebyshev nodes; a second for a thousand.
    """
    extent, reach = (torch.tensor(values, dtype=torch.float64) for values in (extents, reaches))
    generator = torch.Generator().manual_seed(0)
    more = min(max(side * side, 1.0), _MOST_PROBES)
    tests = _inside(extent, round(_TESTS * more), generator)
    near = _outside(side, extent, reach, round(_PROBES * more) // 4, generator)
    wanted = kernel_between(tests, near, profile)
    for order in range(_LEAST_ORDER, _MOST_ORDER + 1):
        orders = _orders(order, side, extent)
        candidates = _chebyshev_grid(orders, extent)
        values = _tensor_product([_lagrange(_unit(tests, extent)[:, k], p) for k, p in enumerate(orders)])
        error = float((values @ kernel_between(candidates, near, profile) - wanted).abs().max())
        if error <= tolerance / 2:
            break
    else:
        if error > tolerance:  # no choice among these nodes is better
            return Basis(extent, orders, candidates[:0], torch.zeros(len(candidates), 0).double(), error)
    probes = torch.cat(
        [near, _outside(side, extent, reach, max(round(_PROBES * more), 2 * len(candidates)), generator)]
    )
    skeleton = _Skeleton(kernel_between(probes, candidates, profile), generator)
    cut = tolerance / 4
    while True:
        chosen, coefficients = skeleton.cut_at(cut)
        found = values @ coefficients @ kernel_between(candidates[chosen], near, profile)
        error = float((found - wanted).abs().max())
        if error <= tolerance or len(chosen) == len(candidates) or cut < 1e-14:
            return Basis(extent, orders, candidates[chosen], coefficients, error)
        cut /= 2


def _orders(order: int, side: float, extent: Tensor) -> tuple[int, ...]:
    """Nodes in each direction: fewer in those in which boxes are thin, for the same rate of convergence.

    Singularities are a side away: the ellipse around [-1, 1] through 1 + 2·side/extent gives the rate.
    """

    def rate(width: float) -> float:
        z = 1 + 2 * side / width
        return math.log(z + math.sqrt(z * z - 1))

    full = order * rate(side)
    return tuple(max(1, math.ceil(full / rate(w))) if w > 1e-9 * side else 1 for w in extent.tolist())


class _Skeleton:
    """Columns of a block (M, P) from which all others follow, and how."""

    def __init__(self, block: Tensor, generator: torch.Generator) -> None:
        count, columns = block.shape
        height = min(count, columns + _SKETCH)
        if height < count:
            sketch = torch.randn(height, count, generator=generator, dtype=torch.float64) / math.sqrt(height)
            block = sketch @ block
        self.triangle, order = qr(block.numpy(), mode="r", pivoting=True, check_finite=False)
        self.pivots = torch.from_numpy(order).long()
        self.size = torch.from_numpy(self.triangle).diagonal().abs() * math.sqrt(columns / count)

    def cut_at(self, cut: float) -> tuple[Tensor, Tensor]:  # -> (r,), (P, r)
        """The columns needed for an error of about `cut`, and the coefficients of all columns in them."""
        columns, rank = len(self.pivots), max(1, int((self.size > cut).sum()))
        corner, rest = self.triangle[:rank, :rank], self.triangle[:rank, rank:]
        coefficients = torch.zeros(columns, rank, dtype=torch.float64)
        coefficients[self.pivots[:rank]] = torch.eye(rank, dtype=torch.float64)
        found = solve_triangular(corner, rest, check_finite=False)
        coefficients[self.pivots[rank:]] = torch.from_numpy(found).T
        return self.pivots[:rank], coefficients


def _inside(extent: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random points of a box: on faces, towards corners and edges, and anywhere."""
    unit = 2 * torch.rand(count, len(extent), generator=generator, dtype=torch.float64) - 1
    unit[: count // 2] = (1.6 * unit[: count // 2]).clamp(-1, 1)
    unit[:2] = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    faces = torch.arange(count // 4, 3 * count // 4)
    unit[faces, faces % len(extent)] = (-1.0) ** (faces // len(extent)).double()
    return unit * extent / 2


def _outside(side: float, extent: Tensor, reach: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random points well separated from a box around 0.

    A quarter each: opposite the box, half of them on the nearest surface, half behind it (what holds there does not
    follow for kernels that fall as fast as RBF); the same around it; in the shell of the children of near boxes; and
    beyond, as far as points reach.
    """
    d, quarter = len(extent), count // 4
    wide = (reach > 1.5 * side).nonzero()[:, 0]
    half = torch.full((count,), _SHELL, dtype=torch.float64)
    half[:quarter], half[quarter : 2 * quarter : 4], half[quarter + 1 : 2 * quarter : 4] = 0.6, 2.5, 2.5
    half[quarter + 2 : 2 * quarter : 4], half[quarter + 3 : 2 * quarter : 4] = 1.2, 1.2
    points = (2 * torch.rand(count, d, generator=generator, dtype=torch.float64) - 1) * half[:, None] * side
    axis = wide[torch.randint(len(wide), (count,), generator=generator)]
    sign = torch.randint(0, 2, (count,), generator=generator).double() * 2 - 1
    distance = 1.5 + (_SHELL - 1.5) * torch.rand(count, generator=generator, dtype=torch.float64)
    distance[: 2 * quarter] = 1.5 + (distance[: 2 * quarter] - 1.5).square() / (_SHELL - 1.5)
    distance[: 2 * quarter : 2] = 1.5
    points[torch.arange(count), axis] = sign * distance * side
    scale = max(1.0, float(reach.max()) / (_SHELL * side))
    points[3 * quarter :] *= scale ** torch.rand(
        count - 3 * quarter, 1, generator=generator, dtype=torch.float64
    )
    limit = torch.maximum(reach, extent / 2)
    return points.clamp(-limit, limit)


def _unit(x: Tensor, extent: Tensor) -> Tensor:
    return torch.where(extent > 0, 2 * x / extent.clamp_min(1e-300), torch.zeros_like(x))


def _chebyshev(order: int) -> Tensor:
    return torch.cos((2 * torch.arange(order, dtype=torch.float64) + 1) * (math.pi / (2 * order)))


def _chebyshev_grid(orders: tuple[int, ...], extent: Tensor) -> Tensor:  # -> (P, d)
    lines = [_chebyshev(p) * float(w) / 2 for p, w in zip(orders, extent, strict=True)]
    return torch.cartesian_prod(*lines).reshape(-1, len(orders))


def _lagrange(x: Tensor, order: int) -> Tensor:  # (...) in [-1, 1] -> (..., order)
    """The Lagrange polynomials of Chebyshev nodes: 1/p + 2/p Σ_k T_k(node) T_k(x)."""
    polynomials = [torch.ones_like(x), x]
    for _ in range(order - 2):
        polynomials.append(2 * x * polynomials[-1] - polynomials[-2])
    angles = torch.arange(order, dtype=torch.float64)[:, None] * torch.arccos(_chebyshev(order))[None]
    table = torch.cos(angles) * (2.0 / order)
    table[0] /= 2
    return torch.stack(polynomials[:order], -1) @ table.to(x.dtype)


def _tensor_product(factors: list[Tensor]) -> Tensor:  # d times (n, p_k) -> (n, P)
    out = factors[0]
    for factor in factors[1:]:
        out = (out[:, :, None] * factor[:, None, :]).reshape(len(out), -1)
    return out

"""The families of stationary kernels: one row each, from which engines and everything above them take what they know.

A new family takes a row here, its profile in `src/families.h` and a branch in `triton/device.py`; random features come
with the row, a kernel of its own with `sggp.kernels.stationary.profile_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import betaincinv, gammainccinv
from torch import Tensor

from sggp.errors import InputError

__all__ = ["FAMILIES", "Family", "Profile", "normal_spectrum", "student_spectrum"]


def _fallen(r2: Tensor, p: Profile) -> Tensor:
    fall, stretch = p.kind.fall(p)  # type: ignore[misc]
    return fall.kind.phi(r2.mul_(stretch**2), fall).neg_()


def _fallen_twice(r2: Tensor, p: Profile) -> Tensor:
    fall, stretch = p.kind.fall(p)  # type: ignore[misc]
    return fall.kind.slope(r2.mul_(stretch**2), fall).mul_(-(stretch**2))


@dataclass(frozen=True)
class Family:
    """A correlation φ of the squared distance r², of unit length scale.

    Args:
        name: what a `Profile` calls it.
        code: its place in the list of `src/families.h`.
        nu: how smooth its functions are: they have ⌈ν⌉ − 1 derivatives.
        phi: (r², profile) → scale · φ(r²), overwriting r².
        spectrum: (t, d) → the values that |ω|² exceeds with probability t, ω drawn from the spectral law in d
            dimensions; None where it has no closed form.
        shaped: whether it has a shape α beside the length scale.
        fall: profile → the profile P and the stretch t with −scale · dφ/d(r²) = P(t²r²), so that engines make blocks of
            slopes as they make those of values; None where −φ' is in no family, and the next two have to be given.
        slope: (r², profile) → scale · dφ/d(r²), overwriting r²; finite everywhere.
        curvature: (r², profile) → scale · d²φ/d(r²)², overwriting r²; where it is infinite, at r = 0, it is 0: second
            derivatives in the points have it times a difference twice, which is less.
    """

    name: str
    code: int
    nu: float
    phi: Callable[[Tensor, Profile], Tensor]
    spectrum: Callable[..., np.ndarray] | None
    shaped: bool = False
    fall: Callable[[Profile], tuple[Profile, float]] | None = None
    slope: Callable[[Tensor, Profile], Tensor] = _fallen
    curvature: Callable[[Tensor, Profile], Tensor] = _fallen_twice


@dataclass(frozen=True)
class Profile:
    """A stationary kernel of unit length scale, k(a, b) = scale · φ(|a − b|²).

    φ is exp(−r²/2) (rbf), exp(−r) (matern12), (1 + √3r)exp(−√3r) (matern32), (1 + √5r + 5r²/3)exp(−√5r) (matern52) or
    (1 + r²/2α)^−α (rq).

    Args:
        family: the name of one of `FAMILIES`.
        scale: the variance k(a, a), positive.
        alpha: the shape of "rq"; None for the others.

    Raises:
        InputError: no such family, or a shape that does not belong to it.
    """

    family: str
    scale: float = 1.0
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"unknown family {self.family!r}; expected one of {', '.join(FAMILIES)}.")
        if FAMILIES[self.family].shaped != (self.alpha is not None):
            shaped = " and ".join(repr(name) for name, family in FAMILIES.items() if family.shaped)
            raise InputError(
                f"alpha={self.alpha!r} with family {self.family!r}: give alpha for {shaped} and only there."
            )

    @property
    def kind(self) -> Family:
        """The row of the table."""
        return FAMILIES[self.family]

    @property
    def shape(self) -> float:
        """α; 1 for families without."""
        return float(self.alpha or 1.0)

    @property
    def numbers(self) -> tuple[int, float, float]:
        """What the C++ engine is told: code, scale and shape."""
        return self.kind.code, float(self.scale), self.shape


def _rbf(r2: Tensor, p: Profile) -> Tensor:
    return r2.mul_(-0.5).exp_().mul_(p.scale)


def _matern12(r2: Tensor, p: Profile) -> Tensor:
    return r2.sqrt_().neg_().exp_().mul_(p.scale)


def _matern12_slope(r2: Tensor, p: Profile) -> Tensor:
    """0 at r = 0, where the profile has a kink."""
    r = r2.sqrt_()
    coincident = r == 0
    return r.neg().exp_().div_(r).mul_(-0.5 * p.scale).masked_fill_(coincident, 0.0)


def _matern12_curvature(r2: Tensor, p: Profile) -> Tensor:
    r = r2.sqrt_()
    coincident = r == 0
    return (r + 1.0).div_(r * r * r).mul_(r.neg().exp_()).mul_(0.25 * p.scale).masked_fill_(coincident, 0.0)


def _matern32(r2: Tensor, p: Profile) -> Tensor:
    r = r2.sqrt_().mul_(math.sqrt(3.0))
    decay = r.neg().exp_()
    return r.add_(1.0).mul_(decay).mul_(p.scale)


def _matern52(r2: Tensor, p: Profile) -> Tensor:
    r = r2.sqrt_().mul_(math.sqrt(5.0))
    decay = r.neg().exp_()
    return r.mul_(r.div(3.0).add_(1.0)).add_(1.0).mul_(decay).mul_(p.scale)


def _rational_quadratic(r2: Tensor, p: Profile) -> Tensor:
    return r2.div_(2.0 * p.shape).log1p_().mul_(-p.shape).exp_().mul_(p.scale)


def _rbf_fall(p: Profile) -> tuple[Profile, float]:
    return Profile("rbf", 0.5 * p.scale), 1.0


def _matern32_fall(p: Profile) -> tuple[Profile, float]:
    return Profile("matern12", 1.5 * p.scale), math.sqrt(3.0)


def _matern52_fall(p: Profile) -> tuple[Profile, float]:
    return Profile("matern32", 5.0 / 6.0 * p.scale), math.sqrt(5.0 / 3.0)


def _rational_quadratic_fall(p: Profile) -> tuple[Profile, float]:
    return Profile("rq", 0.5 * p.scale, p.shape + 1.0), math.sqrt((p.shape + 1.0) / p.shape)


def normal_spectrum(t: np.ndarray, d: int) -> np.ndarray:
    """|ω|² ~ χ²(d)."""
    return 2 * gammainccinv(d / 2, t)


def student_spectrum(t: np.ndarray, d: int, nu: float) -> np.ndarray:
    """ω = z √(2ν/u), z ~ N(0, I), u ~ χ²(2ν), a multivariate Student-t: 2ν/(2ν + |ω|²) ~ Beta(ν, d/2)."""
    share = betaincinv(nu, d / 2, t)
    return 2 * nu * (1 - share) / share


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("rbf", 0, math.inf, _rbf, normal_spectrum, fall=_rbf_fall),
        Family(
            "matern12",
            1,
            0.5,
            _matern12,
            partial(student_spectrum, nu=0.5),
            slope=_matern12_slope,
            curvature=_matern12_curvature,
        ),
        Family("matern32", 2, 1.5, _matern32, partial(student_spectrum, nu=1.5), fall=_matern32_fall),
        Family("matern52", 3, 2.5, _matern52, partial(student_spectrum, nu=2.5), fall=_matern52_fall),
        Family("rq", 4, math.inf, _rational_quadratic, None, shaped=True, fall=_rational_quadratic_fall),
    )
}

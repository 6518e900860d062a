"""Kernels and noise in other units: what is learnt from scaled targets, rewritten for the targets themselves.

Starts, bounds and priors of a fit are for targets of unit variance. Targets of any other spread are therefore learnt as
(y − offset)/scale, and what was learnt is rewritten: from y times c comes the same model, in the units of c.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import AdditiveKernel, Kernel, ProductKernel, ScaleKernel
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from sggp.arrays import mean_and_std
from sggp.errors import InputError, UnsupportedKernel
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.problem import public_mean
from sggp.hyperparameters.result import FitResult
from sggp.posterior import Posterior
from sggp.posterior.data import seeded_features

_LARGE = 1e300  # from here on differences of targets may overflow
_LEAST = 1e-152  # the spread of targets whose squares float64 holds


def kernel_in_units(kernel: Kernel, x_scale: np.ndarray | None, y_scale: float) -> Kernel:
    """The kernel k' with k'(x, z) = y_scale²·k(x/x_scale, z/x_scale), with log-normal priors moved along.

    Args:
        kernel: ScaleKernel(base) with length scales, one per column, or without any; sums and products of scaled
            kernels, where only y_scale is another; never changed.
        x_scale: (d,) positive, units of the inputs; None leaves them.
        y_scale: positive, units of the targets.

    Raises:
        UnsupportedKernel: another kernel, where anything is to be rescaled.
        InputError: an output scale in squared units of the targets is no number that float64 holds.
    """
    kernel = copy_kernel(kernel)
    if x_scale is None and y_scale == 1.0:
        return kernel
    scales = output_scales(kernel)
    if scales is None:
        raise UnsupportedKernel(
            f"{type(kernel).__name__} cannot be rescaled to other units: wrap it in gpytorch.kernels.ScaleKernel."
        )
    for part in scales:
        value = float(part.outputscale.detach())
        factor = torch.tensor(y_scale, dtype=torch.float64) ** 2
        if not _LEAST < y_scale < 1 / _LEAST or not 0 < value * float(factor) < math.inf:
            raise InputError(
                f"the targets have a spread of {y_scale:.3g}, and float64 holds no output scale in the square of such "
                "units: multiply the targets by a constant, or have them normalised."
            )
        _rescale(part, "outputscale", factor)
    base = getattr(kernel, "base_kernel", None)
    if x_scale is not None and base is not None and base.has_lengthscale:
        _rescale(base, "lengthscale", torch.as_tensor(x_scale, dtype=torch.float64).reshape(1, -1))
    return kernel


def output_scales(kernel: Kernel) -> list[ScaleKernel] | None:
    """The output scales that multiply the whole kernel when all of them are multiplied; None where there are none."""
    found = _output_scales(kernel)
    if found is None or len({id(part.raw_outputscale) for part in found}) < len(found):
        return None
    return found


def _output_scales(kernel: Kernel) -> list[ScaleKernel] | None:
    if isinstance(kernel, ScaleKernel):
        return [kernel]
    if not isinstance(kernel, AdditiveKernel | ProductKernel):
        return None
    parts = [_output_scales(part) for part in kernel.kernels]
    if isinstance(kernel, ProductKernel):
        own = [p for p, factor in zip(parts, kernel.kernels, strict=True) if _once(factor, kernel.kernels)]
        return next((part for part in own if part is not None), None)
    return None if None in parts else [scale for part in parts if part is not None for scale in part]


def _once(factor: Kernel, factors: Iterable[Kernel]) -> bool:
    """Whether it is one factor of the product, and not the same one several times: a power."""
    return sum(other is factor for other in factors) == 1


def _rescale(kernel: Kernel, name: str, factor: Tensor) -> None:
    """Multiply a positive parameter, and the median of its log-normal prior if it has one."""
    prior = getattr(kernel, f"{name}_prior", None)
    if isinstance(prior, LogNormalPrior):
        location = prior.loc.to(torch.float64) + factor.log()
        spread = prior.scale.to(torch.float64).expand_as(location).clone()
        _, *closures = kernel._priors[
            f"{name}_prior"
        ]  # those of a name would be functions that go into no pickle
        kernel.register_prior(f"{name}_prior", LogNormalPrior(location, spread), *closures)
    setattr(kernel, name, getattr(kernel, name).detach() * factor)


@dataclass(frozen=True)
class TargetUnits:
    """y ↦ (y − offset)/scale, one scale for all targets, for the sake of learning.

    Attributes:
        offset: (t,) the mean where it is known, else that of y.
        scale: the root mean square of y about it; 1 where y has no spread, and for kernels whose values are meant in
            the units of y.
    """

    offset: Tensor
    scale: float

    @classmethod
    def of(
        cls, y: Tensor, mean: Tensor | None, kernel: Kernel, *, relative: bool | None = None
    ) -> TargetUnits:
        """The units to learn in.

        Args:
            y: (n, t). mean: (t,) the known mean, None where it is learnt.
            kernel: where learning starts.
            relative: whether its values are for targets of unit variance; None says so of output scales that are learnt
                without bounds and priors. Any others are meant in the units of y.

        Raises:
            InputError: they are, and float64 does not hold the square of such targets.
        """
        values = y.detach().cpu().numpy()
        offset = mean_and_std(values)[0] if mean is None else mean.detach().cpu().numpy()
        half = halved(y)
        deviations = half * values - half * offset
        exponent = int(np.frexp(np.abs(deviations).max())[1])
        root = math.sqrt(float(np.square(np.ldexp(deviations, -exponent)).mean()))
        scale = float(np.ldexp(root, exponent)) / half or 1.0
        if not (is_relative(kernel) if relative is None else relative):
            if not _LEAST < scale < 1 / _LEAST:
                raise InputError(
                    f"{type(kernel).__name__} is meant in squared units of the targets, and float64 cannot hold the "
                    f"square of their spread, {scale:.3g}: normalise the targets, or multiply them by a constant."
                )
            scale = 1.0
        return cls(torch.from_numpy(np.array(offset)).to(y), scale)

    def targets(self, y: Tensor) -> Tensor:  # (n, t) -> (n, t)
        """Scaled targets."""
        return scaled(y, self.offset.to(y), self.scale)

    def inner_noise(self, noise: Any) -> Any:
        """Noise variances, a number or a tensor, for scaled targets."""
        inside = scaled_noise(noise, self.scale)
        return inside if isinstance(noise, Tensor) else float(inside)

    def inner_prior(self, prior: Any) -> Any:
        """A prior on the noise variance as one on that of scaled targets."""
        if isinstance(prior, LogNormalPrior):
            return LogNormalPrior(prior.loc.double() - 2 * math.log(self.scale), prior.scale.double())
        return None if prior is None else _MovedPrior(prior, self.scale)

    def inner(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of `learn_hyperparameters` in squared units of y, or in y's, as options for scaled targets."""
        out = dict(options)
        for name in ("noise_floor", "initial_noise_variance"):
            if out.get(name) is not None:
                out[name] = self.inner_noise(out[name])
        if out.get("noise_prior") is not None:
            out["noise_prior"] = self.inner_prior(out["noise_prior"])
        if out.get("mean") is not None:
            out["mean"] = 0.0  # the offset is the known mean
        return out

    def outer(self, fit: FitResult, values: int) -> FitResult:
        """What was learnt from so many scaled targets, in the units of y.

        Raises:
            InputError: float64 does not hold it.
        """
        shift, area = math.log(self.scale), self.scale * self.scale
        names = {
            f"{name}.outputscale".lstrip(".") for name in _names(output_scales(fit.kernel) or [], fit.kernel)
        }

        def outside(record: dict[str, Any]) -> dict[str, Any]:
            found = dict(record["values"])
            for name in found:
                if name in names or name == "noise_variance":
                    found[name] = found[name] * area
                elif name == "mean":
                    found[name] = public_mean(self._means(found[name]))
            return {**record, "value": record["value"] - shift, "values": found}

        kernel = kernel_in_units(fit.kernel, None, self.scale)
        mean = self._means(fit.mean)
        return replace(
            fit,
            kernel=kernel.requires_grad_(False),
            noise_variance=fit.noise_variance * area,
            mean=public_mean(mean),
            trace=[outside(record) for record in fit.trace],
            log_marginal_likelihood=fit.log_marginal_likelihood - values * shift,
            posterior=None if fit.posterior is None else posterior_in_units(fit.posterior, kernel, self),
        )

    def _means(self, mean: Any) -> Tensor:  # (t,)
        return (
            torch.as_tensor(mean, dtype=torch.float64).to(self.offset).reshape(-1) * self.scale + self.offset
        )


def scaled(y: Tensor, offset: Tensor, scale: Any) -> Tensor:
    """(y − offset)/scale, also where y − offset overflows."""
    half = halved(y)
    return (y - offset) / scale if half == 1.0 else (half * y - half * offset) / (half * scale)


def scaled_noise(noise: Any, scale: float) -> Tensor:
    """Noise variances in squared units of targets, () or (n,), for targets that were divided by their scale.

    Raises:
        InputError: float64 cannot hold them.
    """
    given = torch.as_tensor(noise, dtype=torch.float64)
    inside = given / scale / scale
    if not bool(torch.isfinite(inside).all()):
        raise InputError(
            f"noise_variance is {float(given.max()):.3g} and the targets have a spread of {scale:.3g}: float64 cannot "
            "hold their ratio. It must be in squared units of y."
        )
    return inside


def is_relative(kernel: Kernel) -> bool:
    """Whether the output scales of a kernel are learnt without bounds and priors."""
    scales = output_scales(kernel)
    return scales is not None and all(_is_free(part) for part in scales)


def posterior_in_units(posterior: Posterior, kernel: Kernel, units: TargetUnits) -> Posterior:
    """The posterior of one scaled target as that of y itself, under the kernel in the units of y."""
    process, data, scale, offset = posterior.process, posterior.data, units.scale, float(units.offset)
    prior = process.prior
    if prior is not None:
        features = seeded_features(kernel, prior.num_features, data.x.shape[1], prior.seed, prior.centre)
        prior = replace(prior, features=features)
    return Posterior(
        replace(process, kernel=kernel, mean=process.mean * scale + offset, prior=prior),
        replace(
            data,
            y=data.y * scale + offset,
            noise_variance=data.noise_variance * scale * scale,
            noise=data.noise * scale,
        ),
        replace(posterior.solution, x=posterior.solution.x / scale),
    )


def _names(parts: list[ScaleKernel], kernel: Kernel) -> list[str]:
    return [name for name, module in kernel.named_modules() if any(module is part for part in parts)]


def _is_free(part: ScaleKernel) -> bool:
    constraint = part.raw_outputscale_constraint
    bounds = (float(constraint.lower_bound.min()), float(constraint.upper_bound.max()))
    unbounded = bounds == (0.0, math.inf) and part.raw_outputscale.numel() == 1
    return unbounded and part.raw_outputscale.requires_grad and "outputscale_prior" not in part._priors


def halved(y: Tensor) -> float:
    """A power of two that keeps differences of targets finite."""
    return 0.5 if y.numel() and float(y.abs().max()) > _LARGE else 1.0


class _MovedPrior:
    """The log density of a noise variance of scaled targets under a prior in squared units of the targets."""

    def __init__(self, prior: Any, scale: float) -> None:
        self.prior, self.scale = prior, scale

    def log_prob(self, noise: Tensor) -> Any:
        """Up to the constant that a change of units adds."""
        return self.prior.log_prob(noise * self.scale * self.scale)

"""What an optimiser moves: kernel parameters, noise and mean as one flat vector in sensible units.

Positive quantities are moved on the log scale, so that one step size suits a length scale of 0.01 and one
of 100 alike, whatever transform the kernel's own constraint uses. The kernel is always a private deep copy.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel, ScaleKernel
from torch import Tensor

from sggp.errors import DtypeError, InputError, UnsupportedKernel
from sggp.hyperparameters.adam import Adam
from sggp.hyperparameters.values import (
    LogNormals,
    PriorTerm,
    expressible,
    is_softplus,
    log_density,
    of_value,
)
from sggp.kernels.convert import check_kernel_structure
from sggp.kernels.generic import copied

_log = logging.getLogger(__name__)
_LOG_RANGE = 23.0  # values stay within a factor e^23 = 1e10 of one


class Ties:
    """Entries of a parameter that are to stay equal.

    Each keeps a coordinate of its own, of which the mean over its group counts: f(Pu) with P the means. The gradient
    P∇f is the same within a group, so an optimiser that starts from equal entries keeps them equal.

    Args:
        groups: positions of the entries of each group.
        size: of the parameter.
    """

    def __init__(self, groups: Sequence[Sequence[int]], size: int) -> None:
        self.member = torch.arange(size)
        for group in groups:
            self.member[list(group)] = min(group)
        self.counts = torch.bincount(self.member, minlength=size)[self.member].double()

    def mean(self, values: Tensor) -> Tensor:
        """Every entry replaced by the mean of its group; the shape stays."""
        member = self.member.to(values.device)
        sums = torch.zeros_like(values.reshape(-1)).index_add(0, member, values.reshape(-1))
        return (sums[member] / self.counts.to(values)).reshape(values.shape)


@dataclass(frozen=True)
class Coordinate:
    """One raw parameter tensor and the map u -> raw, elementwise and increasing, after the mean over `ties`.

    Attributes:
        usual: the value is that of a softplus, and `Coordinates` takes all such maps together.
        least: the value is this plus e^u; None where it is something else.
    """

    name: str
    parameter: torch.nn.Parameter
    to_raw: Callable[[Tensor], Tensor]
    to_coordinate: Callable[[Tensor], Tensor]
    lower: float
    upper: float
    ties: Ties | None = None
    usual: bool = False
    least: float | None = None


def _identity(value: Tensor) -> Tensor:
    return value


@np.errstate(all="ignore")
def _softplus_raw(u: np.ndarray) -> np.ndarray:
    """The raw parameter of a value e^u above its lower bound: log(e^(e^u) − 1)."""
    above = np.exp(u)
    return above + np.log(-np.expm1(-above))


def _softplus_slope(u: np.ndarray) -> np.ndarray:
    """The derivative of `_softplus_raw`, e^u / (1 − e^(−e^u))."""
    above = np.exp(u)
    return above / -np.expm1(-above)


def _coordinate(name: str, parameter: torch.nn.Parameter, constraint: Any) -> Coordinate:
    """The map for one kernel parameter: log above its lower bound where it has one, raw otherwise."""
    if constraint is not None:
        lower, upper = float(constraint.lower_bound.min()), float(constraint.upper_bound.max())
        if math.isfinite(lower) and math.isinf(upper):
            usual = is_softplus(constraint) and constraint.lower_bound.numel() == 1
            return Coordinate(
                name,
                parameter,
                lambda u: constraint.inverse_transform(lower + u.exp()),
                lambda raw: (constraint.transform(raw) - lower).clamp_min(1e-300).log(),
                -_LOG_RANGE,
                _LOG_RANGE,
                usual=usual,
                least=lower,
            )
        if lower >= 0.0 and math.isfinite(upper):
            low, high = max(lower * (1 + 1e-7), 1e-10), upper * (1 - 1e-7)
            return Coordinate(
                name,
                parameter,
                lambda u: constraint.inverse_transform(u.exp().clamp(low, high)),
                lambda raw: constraint.transform(raw).clamp(low, high).log(),
                math.log(low),
                math.log(high),
            )
    return Coordinate(name, parameter, _identity, _identity, -math.inf, math.inf)


def check_kernel(kernel: Kernel) -> None:
    """Refuse what is no single kernel.

    Raises:
        DtypeError: `kernel` is not a GPyTorch kernel.
        UnsupportedKernel: it has a batch shape or several outputs per input.
    """
    if not isinstance(kernel, Kernel):
        raise DtypeError(f"expected a gpytorch.kernels.Kernel, got {type(kernel).__name__}.")
    check_kernel_structure(kernel)


def copy_kernel(kernel: Kernel, device: torch.device | None = None) -> Kernel:
    """A float64 deep copy of `kernel`, which can be changed and leaves the caller's as it is.

    Raises:
        DtypeError, UnsupportedKernel: see `check_kernel`; or it cannot be copied.
    """
    check_kernel(kernel)
    try:
        duplicate = copied(kernel)
    except RuntimeError as error:
        raise UnsupportedKernel(
            f"the kernel {type(kernel).__name__} cannot be copied ({error}); a module that caches tensors with a graph "
            "must drop them first."
        ) from error
    return duplicate.to(device=device, dtype=torch.float64)


def lengthscale_columns(
    kernel: Kernel, columns: list[int], *, selected: bool = False
) -> dict[int, list[list[int]]]:
    """For every length scale parameter (by id), the input columns that each of its entries acts on.

    Args:
        kernel: any kernel. columns: those that it is given.
        selected: its `active_dims` were picked already: a ScaleKernel picks those of its base and then leaves it to
            them.
    """
    if kernel.active_dims is not None and not selected:
        columns = [columns[int(j)] for j in kernel.active_dims]
    out: dict[int, list[list[int]]] = {}
    if kernel.has_lengthscale:
        parameter = kernel.raw_lengthscale
        single = parameter.numel() == len(columns)
        out[id(parameter)] = [[c] for c in columns] if single else [columns] * parameter.numel()
    for child in kernel.children():
        for part in child if isinstance(child, torch.nn.ModuleList) else [child]:
            if isinstance(part, Kernel):
                out.update(lengthscale_columns(part, columns, selected=isinstance(kernel, ScaleKernel)))
    return out


class Coordinates:
    """The learnable part of a kernel, a noise variance and a mean as one vector u of shape (p,), float64.

    Length scales of columns that a kernel names together in an attribute `lengthscale_groups` stay equal, and a prior
    counts them as one.

    Args:
        kernel: a private copy (see `copy_kernel`); its raw parameters are overwritten by `assign`.
        initial_noise: starting noise variance, or None when the noise is known.
        noise_floor: the learnt noise variance stays above this.
        noise_prior: a GPyTorch prior on the noise variance, or None.
        initial_mean: (t,) starting means, or None when the mean is known or profiled out.
        mean_scale: the unit of the mean's coordinate, so that a step means as much whatever the units of y.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        initial_noise: float | None = None,
        noise_floor: float = 0.0,
        noise_prior: Any = None,
        initial_mean: Tensor | None = None,
        mean_scale: float = 1.0,
    ) -> None:
        self.kernel = kernel
        self.noise_floor = noise_floor
        self.noise_prior = noise_prior
        self.items: list[Coordinate] = []
        # walked through once: every evaluation needs them, and a walk takes longer than what is done there
        self._constrained = list(kernel.named_parameters_and_constraints())
        seen: set[int] = set()
        for name, parameter, constraint in self._constrained:
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                ties = _ties(kernel.get_submodule(name.rpartition(".")[0]), name)
                self.items.append(replace(_coordinate(name, parameter, constraint), ties=ties))
        self.raw_noise: torch.nn.Parameter | None = None
        self.raw_mean: torch.nn.Parameter | None = None
        device = next((p.device for p in kernel.parameters()), torch.device("cpu"))
        if initial_noise is not None:
            start = math.log(max(initial_noise - noise_floor, 1e-2 * noise_floor, 1e-300))
            self.raw_noise = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64, device=device))
            low = math.log(max(1e-3 * noise_floor, 1e-300))
            self.items.append(
                Coordinate(
                    "noise_variance", self.raw_noise, _identity, _identity, low, math.inf, least=noise_floor
                )
            )
        if initial_mean is not None:
            self.raw_mean = torch.nn.Parameter(initial_mean.detach().clone().to(device, torch.float64))
            to_raw, to_coordinate = (lambda u: u * mean_scale), (lambda raw: raw / mean_scale)
            self.items.append(Coordinate("mean", self.raw_mean, to_raw, to_coordinate, -math.inf, math.inf))
        self._sizes = [item.parameter.numel() for item in self.items]
        self._starts = [sum(self._sizes[:number]) for number in range(len(self._sizes))]
        self._usual = np.repeat([item.usual for item in self.items], self._sizes).astype(bool)
        self._log_normals, self._priors = self._known_priors()

    def _known_priors(self) -> tuple[LogNormals, list[Callable[[], Tensor]]]:
        """The log-normal priors on values of coordinates, and all others as differentiable log densities."""
        places = {
            id(item.parameter): (item, start) for item, start in zip(self.items, self._starts, strict=True)
        }
        terms: list[PriorTerm] = []
        others: list[Callable[[], Tensor]] = []

        def add(parameter: Any, prior: Any, ties: Ties | None, value: Callable[[], Tensor]) -> None:
            item, start = places.get(id(parameter), (None, 0))
            counts = None if ties is None else ties.counts
            if item is None or item.least is None or not expressible(prior, item.parameter.shape):
                others.append(lambda: _counted(log_density(prior, value()), counts))
            else:
                terms.append(PriorTerm(start, item.parameter.shape, item.least, prior, counts))

        for name, module, prior, closure, _ in self.kernel.named_priors():
            value = of_value(module, closure)
            parameter = None if value is None else getattr(module, f"raw_{value}")
            add(parameter, prior, _ties(module, name), partial(closure, module))
        if self.noise_prior is not None and self.raw_noise is not None:
            add(self.raw_noise, self.noise_prior, None, self.noise)
        return LogNormals(terms), others

    @property
    def size(self) -> int:
        """Number of coordinates p."""
        return sum(self._sizes)

    def vector(self) -> Tensor:  # (p,)
        """The present values as coordinates, on the CPU."""
        if not self.items:
            return torch.zeros(0, dtype=torch.float64)
        with torch.no_grad():
            parts = [item.to_coordinate(item.parameter.detach()).reshape(-1).cpu() for item in self.items]
        return torch.cat(parts).clamp(*self.bounds()).detach()

    def bounds(self) -> tuple[Tensor, Tensor]:  # (p,), (p,)
        """Lower and upper bounds of the coordinates."""
        sizes = torch.tensor(self._sizes, dtype=torch.long)
        ends = torch.tensor([[item.lower, item.upper] for item in self.items], dtype=torch.float64)
        lower, upper = ends.reshape(-1, 2).repeat_interleave(sizes, dim=0).unbind(dim=1)
        return lower, upper

    def _tied(self, values: Tensor) -> Tensor:  # (p,)
        """Entries that are to stay equal replaced by their means, on the CPU; of a gradient likewise."""
        values = values.detach().cpu()
        if all(item.ties is None for item in self.items):
            return values
        parts = zip(self.items, values.split_with_sizes(self._sizes), strict=True)
        return torch.cat([part if item.ties is None else item.ties.mean(part) for item, part in parts])

    @torch.no_grad()
    def assign(self, u: Tensor) -> None:
        """Write the coordinates u (p,) into the raw parameters and clear their gradients."""
        raw = self._tied(u).numpy().copy()
        raw[self._usual] = _softplus_raw(raw[self._usual])
        parts = torch.from_numpy(raw).split_with_sizes(self._sizes)
        for item, part in zip(self.items, parts, strict=True):
            value = part.reshape(item.parameter.shape).to(item.parameter)
            item.parameter.copy_(value if item.usual else item.to_raw(value))
            item.parameter.grad = None

    def gradient(self, u: Tensor) -> Tensor:  # (p,)
        """Gradient in the coordinates, from the `.grad` of the raw parameters (chain rule through u -> raw)."""
        return self._chained(u, [item.parameter.grad for item in self.items])

    @np.errstate(all="ignore")
    def _chained(self, u: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:  # (p,)
        """The same from gradients in the raw parameters; None is zero."""
        tied = self._tied(u)
        parts = [torch.zeros(0, dtype=torch.float64)]
        for item, size, start, own in zip(self.items, self._sizes, self._starts, gradients, strict=True):
            pulled = torch.zeros(size, dtype=torch.float64) if own is None else own
            if own is not None and not item.usual and item.to_raw is not _identity:
                with torch.enable_grad():
                    place = tied[start : start + size].reshape(own.shape).to(own).requires_grad_(True)
                    (pulled,) = torch.autograd.grad(item.to_raw(place), place, own)
            parts.append(pulled.reshape(-1).cpu())
        found = torch.cat(parts)
        found.numpy()[self._usual] *= _softplus_slope(tied.numpy()[self._usual])
        return self._tied(found)

    def climb(self, u: Tensor, gradient: Tensor, optimizer: Adam, rate: float) -> Tensor:
        """One step of an optimiser that moves u (p,), within the bounds; the gradient (p,) that it climbed."""
        if not bool(torch.isfinite(gradient).all()):
            _log.warning("a step gave a non-finite gradient; it was skipped")
            gradient = torch.zeros_like(gradient)
        optimizer.step(u, -gradient, rate)
        with torch.no_grad():
            u.copy_(u.clamp(*self.bounds()))
        return gradient

    def noise(self) -> Tensor:
        """The learnt noise variance, a differentiable scalar."""
        if self.raw_noise is None:
            raise InputError("this problem has a known noise variance: there is none to learn.")
        return self.noise_floor + self.raw_noise.exp()

    def noise_height(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The derivative in the learnt noise variance, as one in its raw parameter."""
        if self.raw_noise is None:
            raise InputError("this problem has a known noise variance: there is none to learn.")
        return self.raw_noise, (slope * self.raw_noise.detach().exp()).to(self.raw_noise)

    def log_prior(self, u: Tensor) -> tuple[float, Tensor]:  # (p,)
        """Sum of the log densities of all GPyTorch priors at u (p,), which was assigned, and its gradient in u.

        The priors are those of the kernel, on constrained values, and that of the noise.
        """
        value, slope = self._log_normals(self._tied(u))
        gradient = self._tied(slope)
        if self._priors:
            with torch.enable_grad():
                total = torch.stack([prior() for prior in self._priors]).sum()
            value += float(total.detach())
            if total.requires_grad:
                parameters = [item.parameter for item in self.items]
                gradient = gradient + self._chained(
                    u, torch.autograd.grad(total, parameters, allow_unused=True)
                )
        return value, gradient

    def values(self) -> dict[str, Any]:
        """The constrained values by GPyTorch name: floats, or lists where a parameter has several entries."""
        out: dict[str, Any] = {}
        with torch.no_grad():
            for name, parameter, constraint in self._constrained:
                if name.rpartition(".")[2].startswith("_"):
                    continue  # bookkeeping of the kernel, not a hyperparameter
                value = parameter if constraint is None else constraint.transform(parameter)
                out[public_name(name)] = value.item() if value.numel() == 1 else value.reshape(-1).tolist()
            if self.raw_noise is not None:
                out["noise_variance"] = float(self.noise())
            if self.raw_mean is not None:
                out["mean"] = self.raw_mean.tolist() if self.raw_mean.numel() > 1 else float(self.raw_mean)
        return out


def _counted(density: Tensor, counts: Tensor | None) -> Tensor:
    """The sum of log densities, each divided by how many entries it was counted for."""
    return (density if counts is None else density / counts.to(density)).sum()


def _ties(module: torch.nn.Module, name: str) -> Ties | None:
    """The ties of the length scales of a kernel, for its parameter or prior of that name."""
    groups = getattr(module, "lengthscale_groups", ())
    parameter = getattr(module, "raw_lengthscale", None)
    if not groups or parameter is None or "lengthscale" not in name.rpartition(".")[2]:
        return None
    return Ties(groups, parameter.numel())


def public_name(name: str) -> str:
    """`base_kernel.raw_lengthscale` -> `base_kernel.lengthscale`."""
    head, _, tail = name.rpartition(".")
    tail = tail.removeprefix("raw_")
    return f"{head}.{tail}" if head else tail

"""The problem that every recipe solves: a checked table, and what is known or supposed of its noise and mean."""

from __future__ import annotations

import inspect
import math
import numbers
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.arrays import check_rows, check_targets, real_numbers, working_dtype
from sggp.checks import finite_number
from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError
from sggp.hyperparameters.coordinates import Coordinates, check_kernel, copy_kernel
from sggp.hyperparameters.result import Callback, FitResult, Trace
from sggp.hyperparameters.unidentified import unidentified_columns
from sggp.kernels import as_covariance
from sggp.kernels.generic import copied
from sggp.random import as_generator
from sggp.typing import Seed

_FLOOR, _START = 1e-6, 0.1  # of a learnt noise variance, as shares of the variance of y
_F = TypeVar("_F", bound=Callable[..., Any])
_S = TypeVar("_S")


@dataclass(frozen=True)
class CommonOptions:
    """What a caller can say beside kernel, x and y, in the same words to every recipe: see `learn_hyperparameters`."""

    noise_variance: float | Tensor | None = None
    mean: float | Tensor | None = None
    initial_noise_variance: float | None = None
    noise_floor: float | None = None
    noise_prior: Any = None
    generator: Seed = None
    callback: Callback | None = None


@dataclass(frozen=True)
class FitProblem:
    """Checked data with what is known of noise and mean: built once, at the entrance.

    Attributes:
        kernel: the caller's, with the values that a search starts from; never changed.
        x: (n, d) rows in float64; integer fingerprints stay as they are.
        y: (n, t) float64, on the device of x.
        noise: the known noise variance, () or (n,) float64, or None to learn one. mean: the known (t,), or None.
        given_floor: the floor of a learnt noise where it was given.
        initial_noise_variance, noise_prior, generator, callback: see `CommonOptions`.
        started: of the clock.
    """

    kernel: Kernel
    x: Tensor
    y: Tensor
    noise: Tensor | None
    mean: Tensor | None
    given_floor: float | None
    initial_noise_variance: float | None
    noise_prior: Any
    generator: torch.Generator
    callback: Callback | None
    started: float

    @classmethod
    def checked(cls, kernel: Kernel, x: Tensor, y: Tensor, given: CommonOptions | None = None) -> FitProblem:
        """The problem, if it is one.

        Raises:
            ShapeError, DtypeError, UnsupportedKernel, InputError: naming what was given and what is expected.
        """
        given = CommonOptions() if given is None else given
        started = time.perf_counter()
        check_kernel(kernel)
        rows = check_rows(x)
        as_covariance(kernel).diagonal(rows[:1])  # names length scales or columns that the rows do not have
        columns = y.unbind(1) if isinstance(y, Tensor) and y.dim() == 2 and y.shape[1] else [y]
        targets = torch.stack([check_targets(column, len(rows)) for column in columns], 1).to(rows.device)
        mean = known_mean(given.mean, targets)
        if given.noise_prior is not None and not hasattr(given.noise_prior, "log_prob"):
            raise DtypeError(
                f"noise_prior must be None or a gpytorch.priors.Prior, got {type(given.noise_prior).__name__}."
            )
        if given.callback is not None and not callable(given.callback):
            raise DtypeError(f"callback must be None or a function, got {type(given.callback).__name__}.")
        return cls(
            kernel=kernel,
            x=rows.double() if rows.is_floating_point() else rows,
            y=targets,
            noise=_checked_noise(given.noise_variance, targets),
            mean=mean,
            given_floor=_checked_number("noise_floor", given.noise_floor),
            initial_noise_variance=_checked_number("initial_noise_variance", given.initial_noise_variance),
            noise_prior=given.noise_prior,
            generator=as_generator(given.generator),
            callback=given.callback,
            started=started,
        )

    @cached_property
    def scale(self) -> float:
        """Mean square of y about the known mean, or about its own: the unit of variances."""
        return _mean_square(self.y, self.mean)

    @property
    def noise_floor(self) -> float:
        """What a learnt noise variance stays above."""
        return _FLOOR * self.scale if self.given_floor is None else self.given_floor

    @property
    def starting_noise(self) -> float:
        """Where a learnt noise variance starts."""
        return self.initial_noise_variance or _START * self.scale

    def part(self, rows: Tensor) -> FitProblem:
        """The problem of some rows alone, (m,) positions or (n,) choices; the floor of the noise stays that of all."""
        rows = rows.to(self.x.device)
        noise = self.noise[rows] if self.noise is not None and self.noise.dim() else self.noise
        return replace(
            self, x=self.x[rows], y=self.y[rows], noise=noise, given_floor=self.noise_floor, callback=None
        )

    def scaled(self, units: Any) -> FitProblem:
        """The problem of scaled targets (`sggp.hyperparameters.units.TargetUnits`)."""

        def inside(variance: Any) -> Any:
            return None if variance is None else units.inner_noise(variance)

        return replace(
            self,
            y=units.targets(self.y),
            noise=inside(self.noise),
            mean=None if self.mean is None else torch.zeros_like(self.mean),
            given_floor=inside(self.given_floor),
            initial_noise_variance=inside(self.initial_noise_variance),
            noise_prior=units.inner_prior(self.noise_prior),
        )

    def coordinates(self, *, learns_mean: bool = False) -> Coordinates:
        """What there is to learn, in a private float64 copy of the kernel, at the values to start from."""
        prior = copied(self.noise_prior)
        return Coordinates(
            copy_kernel(self.kernel, self.x.device),
            initial_noise=None if self.noise is not None else self.starting_noise,
            noise_floor=self.noise_floor,
            noise_prior=prior.double() if isinstance(prior, torch.nn.Module) else prior,
            initial_mean=self.y.mean(dim=0) if learns_mean and self.mean is None else None,
            mean_scale=math.sqrt(self.scale),
        )

    def known_noise(self) -> Tensor:  # () or (n,)
        """The noise variance, where there has to be one."""
        if self.noise is None:
            raise InputError("noise_variance is needed: a number or one per row, in squared units of y.")
        return self.noise

    def precision(self, dtype: torch.dtype | None) -> torch.dtype:
        """The working precision of solves: as asked, or by `sggp.arrays.working_dtype`."""
        return working_dtype(len(self.x), dtype)

    def check_memory(self, budget: float, instead: str) -> None:
        """Refuse an exact marginal likelihood of more rows than ten (n, n) float64 matrices fit the budget for."""
        needed = 10 * 8 * len(self.x) ** 2
        if needed > budget:
            raise MemoryBudgetError(
                f"an exact marginal likelihood of {len(self.x)} rows needs about {needed / 2**30:.1f} GiB, the budget "
                f"is {budget / 2**30:.1f} GiB: {instead}."
            )

    def trace(self) -> Trace:
        """An empty trace with this problem's clock and callback."""
        return Trace(self.started, self.callback)

    def result(
        self, method: str, kernel: Kernel, noise: float | Tensor, mean: Tensor, **found: Any
    ) -> FitResult:
        """The one place where a `FitResult` is made: learnt values, and what else was found, by its fields."""
        found.setdefault("unidentified_columns", unidentified_columns(kernel, self.x))
        return FitResult(
            kernel=kernel.requires_grad_(False),
            noise_variance=noise if isinstance(noise, Tensor) and noise.dim() else float(noise),
            mean=public_mean(mean),
            method=method,
            seconds=time.perf_counter() - self.started,
            **found,
        )


def split_common(options: Mapping[str, Any]) -> tuple[CommonOptions, dict[str, Any]]:
    """What keyword arguments say of the data, and the rest: the settings of a recipe."""
    shared = {item.name for item in fields(CommonOptions)}
    rest = {name: value for name, value in options.items() if name not in shared}
    return CommonOptions(**{name: value for name, value in options.items() if name in shared}), rest


@dataclass(frozen=True)
class Options(Generic[_S]):
    """The keyword arguments of one recipe: those of `CommonOptions`, and its own settings.

    Attributes:
        recipe: its name, for messages.
        settings: the frozen dataclass of its settings; it checks their ranges.
        without: fields of `CommonOptions` that it has no use for. mean: the default of that one.
    """

    recipe: str
    settings: type[_S]
    without: tuple[str, ...] = ()
    mean: float | None = None

    def known(self) -> dict[str, Any]:
        """All that the recipe takes, with the defaults."""
        common = {item.name: item.default for item in fields(CommonOptions) if item.name not in self.without}
        own = {item.name: item.default for item in fields(self.settings)}  # type: ignore[arg-type]
        return common | {"mean": self.mean} | own

    def split(self, options: Mapping[str, Any]) -> tuple[CommonOptions, _S]:
        """What is said of the data, and the settings.

        Raises:
            InputError: an option that the recipe does not know, or a setting out of range.
        """
        known = self.known()
        for option in options:
            if option not in known:
                raise InputError(f"{self.recipe} has no option {option!r}; it knows {', '.join(known)}.")
        common, settings = split_common({"mean": self.mean, **options})
        return common, self.settings(**settings)

    def read(self, kernel: Kernel, x: Tensor, y: Tensor, options: Mapping[str, Any]) -> tuple[FitProblem, _S]:
        """The checked problem and the settings, from the arguments of a recipe."""
        given, settings = self.split(options)
        return FitProblem.checked(kernel, x, y, given), settings

    def shown(self, function: _F) -> _F:
        """Decorate (kernel, x, y, **options) so that `help()` and notebooks show the options with their defaults."""
        signature = inspect.signature(function)
        shown = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        for name, default in self.known().items():
            shown.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return function


def at_least(settings: Any, **bounds: float) -> None:
    """Check numbers among the settings; None passes, for it asks for a default.

    Raises:
        InputError: one is no number, or below its bound.
    """
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None and not (isinstance(value, numbers.Real) and float(value) >= bound):
            wanted = "positive" if bound == 1 else f"at least {bound:g}"
            raise InputError(f"{name} must be {wanted}, got {value!r}.")


def public_mean(mean: Tensor) -> float | Tensor:
    """A float for one target, the (t,) tensor, on the CPU, for several."""
    return float(mean) if mean.numel() == 1 else mean.cpu()


def _checked_noise(noise_variance: Any, y: Tensor) -> Tensor | None:
    """A given noise variance as a float64 scalar or (n,) tensor beside y; None stays None."""
    if noise_variance is None:
        return None
    expected = f"a number or ({len(y)},) of them"
    noise = real_numbers(noise_variance, "noise_variance", expected).to(y.device)
    if tuple(noise.shape) not in ((), (len(y),)):
        raise ShapeError(f"noise_variance must be {expected}, got shape {tuple(noise.shape)}.")
    if not bool(torch.isfinite(noise).all()) or bool((noise < 0).any()):
        raise InputError("noise_variance must be finite and not negative.")
    return noise


def known_mean(mean: Any, y: Tensor) -> Tensor | None:
    """A given constant mean as a float64 (t,) tensor beside y; None stays None."""
    if mean is None:
        return None
    t = y.shape[1]
    expected = f"a finite number or {t} of them"
    value = real_numbers(mean, "mean", expected).to(y.device).reshape(-1)
    if value.numel() not in (1, t) or not bool(torch.isfinite(value).all()):
        raise InputError(f"mean must be {expected}, got {mean!r}.")
    return value.expand(t).clone()


def _checked_number(name: str, value: Any) -> float | None:
    """A given number that is not negative, as a float; None stays None."""
    if value is None:
        return None
    number = finite_number(value, name)
    if number < 0:
        raise InputError(f"{name} must be None or a finite number that is not negative, got {value!r}.")
    return number


def _mean_square(y: Tensor, mean: Tensor | None) -> float:
    centre = y.mean(dim=0) if mean is None else mean
    return max(float((y - centre).square().mean()), 1e-300)

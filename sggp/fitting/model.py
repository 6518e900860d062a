"""The one way from a table to a fitted model: scaling, kernel, learning, and conditioning on all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.arrays import check_noise
from sggp.defaults import NUM_FEATURES, NUM_SAMPLES
from sggp.errors import NoRandomFeatures
from sggp.evidence.judging import KernelSelection
from sggp.evidence.leave_one_out import Observed
from sggp.evidence.outliers import without
from sggp.evidence.spread import LEAST_ROWS, NoiseModel
from sggp.evidence.timed import learn_noise_in_time, outlying_rows_in_time
from sggp.fitting.given_noise import AGAIN, fit_given_noise, noise_of
from sggp.fitting.scaling import Scaling, check_range, middle, scaling_of
from sggp.fitting.selection import fit_selected, observed
from sggp.fitting.smoothness import fit_smoothness
from sggp.fitting.start import StartingPoint, starting_point
from sggp.fitting.unknown_constant import with_unknown_constant
from sggp.hyperparameters import FitResult, choose_optimizer, learn_hyperparameters
from sggp.hyperparameters.defaults import noise_floor
from sggp.hyperparameters.problem import known_mean
from sggp.hyperparameters.unidentified import columns_without_influence
from sggp.hyperparameters.units import TargetUnits, kernel_in_units
from sggp.posterior import Posterior, condition
from sggp.random import as_generator, draw_seed, streams
from sggp.running import share_of_time
from sggp.typing import Seed

_HEAVY = 2.0  # a standard deviation over that of the middle, from which on a few targets may decide it
_KERNEL_SHARE = 0.8  # of the seconds that there are for learning; the rest is for the noise model
_DRAWN_IN = 30.0  # robust standard deviations


def no_limits(column: int) -> Mapping[str, Any]:
    """No time limit and no checkpoint for a target."""
    return {}


@dataclass(frozen=True)
class ModelSettings:
    """What a model is asked for: the arguments of `GPRegressor` that every way to it shares, and some more.

    Attributes:
        normalise: centre the targets and divide them by their standard deviation. Without, the model is one of the
            targets as they are: what is given (kernel, mean, priors) counts in their units, and so does what is learnt.
        noise: "auto" for a `NoiseModel` where one target and its noise are learnt from 100 rows or more, and for an
            adjustment of noise variances that are given for so many rows; "constant" or "given" for neither.
        blocks: input columns that are the 0/1 codes of one category each; see `Scaling.with_codes`.
        callback: called with each record of the trace.
        options: further arguments of the recipe that learns.
    """

    kernel: Any = None
    noise_variance: Any = None
    optimizer: Any = "auto"
    solver: Any = None
    num_samples: int = NUM_SAMPLES
    num_features: int = NUM_FEATURES
    normalise: bool = True
    noise: str = "constant"
    blocks: tuple[tuple[int, ...], ...] = ()
    callback: Callable[[dict[str, Any]], None] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hyperparameters:
    """A kernel, the (mean) noise variance and the constant mean, all in the same units."""

    kernel: Kernel
    noise_variance: float
    mean: float


@dataclass(frozen=True)
class FittedModel:
    """Hyperparameters learnt from a table; `condition` gives the posterior.

    Attributes:
        settings: what was asked for.
        scaling: between the table's units and those of the model.
        fit: the `FitResult`: kernel, noise variance and mean for inputs and targets as scaled.
        without_influence: input columns whose learnt length scales make no difference; `scaling.inputs` makes them
            constant, so that rows that differ in nothing else are repeats.
        noise_model: how measurements spread about predictions. selection: the kernels compared, None without a choice.
    """

    settings: ModelSettings
    scaling: Scaling
    fit: FitResult
    without_influence: list[int]
    _x_scale: np.ndarray = field(repr=False)
    _values: int = 1
    noise_model: NoiseModel = field(default_factory=NoiseModel)
    selection: KernelSelection | None = None

    @property
    def kernel(self) -> Kernel:
        """The learnt kernel, for inputs and targets as scaled."""
        return self.fit.kernel

    @property
    def learnt_mean(self) -> bool:
        """Whether the constant mean is an estimate, and not given or that of targets without spread."""
        return (
            self.fit.method not in ("fixed", "constant target") and self.settings.options.get("mean") is None
        )

    def told(self) -> FitResult:
        """What was learnt, of standardised inputs and of normalised targets, or of targets as they are.

        Raises:
            InputError: float64 does not hold it in the units of the targets.
        """
        return self.fit if self.scaling.normalised else self.scaling.units.outer(self.fit, self._values)

    def in_units(self, *, targets: bool = True) -> Hyperparameters:
        """What was learnt, for the inputs as given, and for the first target as given or (False) normalised.

        Raises:
            UnsupportedKernel: the kernel is not one that `kernel_in_units` can rescale.
        """
        offset, scale = (float(v[0]) for v in (self.scaling.y_offset, self.scaling.y_scale))
        if not targets:
            offset, scale = 0.0, 1.0
        return Hyperparameters(
            kernel_in_units(self.kernel, self._x_scale if self.scaling.standardised else None, scale),
            float(torch.as_tensor(self.fit.noise_variance, dtype=torch.float64).mean()) * scale * scale,
            float(torch.as_tensor(self.fit.mean, dtype=torch.float64).reshape(-1)[0]) * scale + offset,
        )

    def noise_of(self, given: Any, column: int) -> Tensor:
        """Noise variances in squared units of a target, as the model takes them: in its units, and adjusted."""
        return self.noise_model.adjusted(self.scaling.noise(given, column))

    def condition(
        self, x: Tensor, y: Tensor, generator: Seed, limits: Callable[[int], Mapping[str, Any]] = no_limits
    ) -> list[Posterior]:
        """One posterior per target, in normalised units; the fit's own if it left one.

        Kernels without random features get a posterior without samples.

        Args:
            x: (n, d), y: (n, t) the table, as given to `fit_model`.
            limits: further arguments of `sggp.condition` for a target, by its column.
        """
        if self.fit.posterior is not None and y.shape[1] == 1 and self.noise_model.row_noise is None:
            return [self.fit.posterior]
        inputs, given = self.scaling.inputs(x), self.settings.noise_variance
        kernel = self.kernel
        if self.learnt_mean:
            kernel = with_unknown_constant(kernel, len(x), self.settings.solver)
        means = torch.as_tensor(self.fit.mean, dtype=torch.float64).reshape(-1)
        out = []
        for j, target in enumerate(self.scaling.targets(y).unbind(dim=1)):
            noise = self.fit.noise_variance
            if self.noise_model.row_noise is not None:
                noise = self.noise_model.row_noise.to(x.device)
            if given is not None:
                noise = self.noise_of(given, j)
            posterior = partial(
                condition,
                kernel,
                inputs,
                target,
                noise_variance=noise,
                mean=float(means[j % len(means)]),
                solver=self.settings.solver,
                num_features=self.settings.num_features,
                generator=generator,
                **limits(j),
            )
            try:
                out.append(posterior(num_samples=self.settings.num_samples))
            except NoRandomFeatures:
                out.append(posterior(num_samples=0))
        return out


def fit_model(x: Tensor, y: Tensor, settings: ModelSettings, generator: Seed) -> FittedModel:
    """Learn a model from a table.

    Args:
        x: (n, d) inputs, checked: finite numbers, or integer fingerprints. Standardised where the kernel is None or
            the name of one with length scales.
        y: (n, t) checked targets.
        settings: what is asked for.
        generator: of everything random in learning; fits of up to 1,500 rows are deterministic.

    Raises:
        DtypeError, InputError, UnsupportedKernel: the settings cannot be used.
    """
    if settings.noise_variance is not None:
        check_noise(settings.noise_variance, len(x))
    start = starting_point(settings.kernel, x, settings.blocks)
    learnt = None
    if not settings.normalise and settings.optimizer is not None:
        relative = True if isinstance(settings.kernel, str | None) else None
        learnt = TargetUnits.of(y.double(), _known_mean(settings, y), start.kernel, relative=relative)
    scaling = scaling_of(x, y, standardise=start.standardise, normalise=settings.normalise, learnt=learnt)
    scaling = scaling.with_codes(settings.blocks)
    inputs, targets = scaling.inputs(x), scaling.targets(y)
    if scaling.standardised:
        check_range(inputs, x)
    learn, judge, spread = streams(as_generator(generator), "learn", "kernel", "noise")
    generators, adjustment = (draw_seed(learn), judge), None
    finds = isinstance(settings.kernel, str | None) and settings.options.get("mean") is None
    apart, seen = None, None
    if finds and scaling.normalised and start.standardise and _may_learn_noise_model(settings, x, y):
        apart = _far_out(start, inputs, targets, scaling, settings, generators, spread)
    if apart is not None:
        scaling = scaling.of_targets(y[_others(apart, len(x))])
        targets = scaling.targets(y)
    if _adjusts_noise(start, settings, y):
        given = scaling.noise(settings.noise_variance, 0)

        def relearn(noise: Tensor | None, kernel: Any) -> tuple[FitResult, KernelSelection | None]:
            begin, own = start, settings
            if noise is None:
                own = replace(settings, noise_variance=None)
            if kernel is not None:
                begin = replace(start, kernel=kernel, candidates=None, smoother=())
                if _recipe(settings, x) == "nearest-neighbour":
                    own = replace(own, options={**own.options, **AGAIN})
            return _learn(begin, inputs, targets, scaling, own, generators, noise)

        (result, selection), adjustment = fit_given_noise(relearn, given, inputs, targets, spread)
    elif apart is None:
        result, selection = _learn(start, inputs, targets, scaling, settings, generators)
        if isinstance(settings.kernel, str | None) and _learns_noise_model(start, settings, result, x, y):
            kept = scaling.with_constant(_idle(start, result, inputs))
            apart, seen = outlying_rows_in_time(_table(result, kept, settings, x, targets), spread)
    if apart is not None:
        others, seen = _others(apart, len(x)), None
        parts = (inputs[others], targets[others])
        result, selection = _learn(start, *parts, scaling, settings, (draw_seed(learn), judge))
    idle = _idle(start, result, inputs)
    kept = scaling.with_constant(idle)
    noise = noise_of(settings.noise_variance, adjustment, float(scaling.y_scale[0]))
    if _learns_noise_model(start, settings, result, x, y):
        table = _table(result, kept, settings, x, targets)
        if apart is not None:
            table = without(table, apart)
        noise = learn_noise_in_time(table, float(result.noise_variance), spread, apart, seen)
    return FittedModel(
        settings, kept, result, idle, scaling.x_scale, y.numel(), noise_model=noise, selection=selection
    )


def _idle(start: StartingPoint, fit: FitResult, inputs: Tensor) -> list[int]:
    """The columns whose learnt length scales make no difference."""
    return columns_without_influence(fit.kernel, inputs) if start.standardise else []


def _table(fit: FitResult, scaling: Scaling, settings: ModelSettings, x: Tensor, targets: Tensor) -> Observed:
    """The whole table as a fit has it, its constant mean as uncertain as it will be in the posterior."""
    table = observed(fit, scaling.inputs(x), targets)
    if settings.options.get("mean") is not None:
        return table
    return replace(table, kernel=with_unknown_constant(table.kernel, len(x), settings.solver))


def _may_learn_noise_model(settings: ModelSettings, x: Tensor, y: Tensor) -> bool:
    """Whether the noise may depend on the input: one target with a noise to learn, and rows enough to tell."""
    learns = settings.noise_variance is None and settings.optimizer is not None
    return settings.noise == "auto" and learns and y.shape[1] == 1 and len(x) >= LEAST_ROWS


def _learns_noise_model(
    start: StartingPoint, settings: ModelSettings, fit: FitResult, x: Tensor, y: Tensor
) -> bool:
    learnt = not start.white_noise_fixed and fit.method not in ("fixed", "constant target")
    return learnt and _may_learn_noise_model(settings, x, y)


def _others(apart: Tensor, rows: int) -> Tensor:  # (k,) -> (n,) bool
    return torch.ones(rows, dtype=torch.bool, device=apart.device).index_fill_(0, apart, False)


def _far_out(
    start: StartingPoint,
    x: Tensor,
    y: Tensor,
    scaling: Scaling,
    settings: ModelSettings,
    generators: tuple[int, torch.Generator],
    spread: torch.Generator,
) -> Tensor | None:
    """Outlying rows where a few targets decide the standard deviation: in its units the others would all be equal.

    By a fit to the targets in units of their middle, those beyond thirty of them drawn in to there.
    """
    median, scale = (float(v) for v in middle(y[:, 0].cpu().numpy()))
    if scale == 0 or _HEAVY * scale >= float(y.std(correction=0)):
        return None
    near = ((y - median) / scale).clamp(-_DRAWN_IN, _DRAWN_IN)
    fit, _ = _learn(start, x, near, scaling, settings, generators)
    return outlying_rows_in_time(observed(fit, x, near), spread)[0]


def _adjusts_noise(start: StartingPoint, settings: ModelSettings, y: Tensor) -> bool:
    """Whether noise variances that are given for every row may be scaled and added to."""
    learns = settings.optimizer is not None and start.white_noise is None and len(y) >= LEAST_ROWS
    if settings.noise != "auto" or settings.noise_variance is None or not learns:
        return False
    return np.asarray(settings.noise_variance).size == len(y) and y.shape[1] == 1


def default_kernel(x: Tensor, y: Tensor) -> Kernel:
    """Where learning with kernel=None starts, for inputs (n, d) and one target (n,) in their own units."""
    start = starting_point(None, x)
    scaling = scaling_of(x, y.reshape(-1, 1), standardise=True, normalise=True)
    smooth = start.smoother[0] if choose_optimizer(len(x)) == "exact" and start.smoother else start.kernel
    return kernel_in_units(smooth, scaling.x_scale, float(scaling.y_scale[0]))


@share_of_time(_KERNEL_SHARE, "hyperparameters")
def _learn(
    start: StartingPoint,
    x: Tensor,
    y: Tensor,
    scaling: Scaling,
    settings: ModelSettings,
    generators: tuple[int, torch.Generator],
    noise: Tensor | None = None,
) -> tuple[FitResult, KernelSelection | None]:
    """The learnt hyperparameters, of the best kernel where there is a choice, and how that was made.

    With noise variances (n,) other than those of the settings where they are given.
    """
    recipe = _recipe(settings, x)
    arguments: dict[str, Any] = {
        "optimizer": recipe,  # of all rows, for fits of some as well
        "noise_variance": _shared_noise(start, scaling, settings) if noise is None else noise,
        "noise_prior": start.noise_prior,
        "generator": generators[0],
        "callback": settings.callback,
    }
    if settings.optimizer is not None:
        spread = float(y.var(dim=0, correction=0).mean())
        arguments["noise_floor"] = noise_floor(x, settings.optimizer) * spread
    if settings.optimizer == "iterative":
        arguments |= {"num_probes": max(2, settings.num_samples), "num_features": settings.num_features}
        arguments |= {"solver": settings.solver}
    arguments |= settings.options if settings.normalise else scaling.units.inner(settings.options)

    def fit(kernel: Any, rows: Tensor | None = None, **more: Any) -> FitResult:
        told, noise = {**arguments, **more}, arguments["noise_variance"]
        if rows is None:
            return learn_hyperparameters(kernel, x, y, scale_free=False, **told)
        if isinstance(noise, Tensor) and noise.dim():
            told["noise_variance"] = noise[rows]
        return learn_hyperparameters(kernel, x[rows], y[rows], scale_free=False, **told)

    if recipe == "exact" and start.smoother:
        table = partial(observed, x=x, y=y, noise=arguments["noise_variance"])
        white = _white_noise(start, scaling)
        return fit_smoothness((start.kernel, *start.smoother), white, fit, table), None
    if recipe != "nearest-neighbour" or start.candidates is None:
        return fit(start.kernel, initial_noise_variance=_white_noise(start, scaling)), None
    return fit_selected(start.candidates(), x, y, fit, generators[1], arguments["noise_variance"])


def _recipe(settings: ModelSettings, x: Tensor) -> Any:
    return choose_optimizer(len(x)) if settings.optimizer == "auto" else settings.optimizer


def _shared_noise(start: StartingPoint, scaling: Scaling, settings: ModelSettings) -> Tensor | None:
    """Known noise for learning, in normalised units (averaged over targets); None where it is learnt."""
    if settings.noise_variance is not None:
        each = [scaling.noise(settings.noise_variance, j) for j in range(len(scaling.y_scale))]
        return torch.stack(each).mean(dim=0)
    if start.white_noise is not None and (start.white_noise_fixed or settings.optimizer is None):
        return torch.tensor(_white_noise(start, scaling), dtype=torch.float64)
    return None


def _white_noise(start: StartingPoint, scaling: Scaling) -> float | None:
    """The noise that came with a kernel, in units of normalised targets or, without, of the targets, for learning."""
    if start.white_noise is None or scaling.normalised:
        return start.white_noise
    return float(scaling.noise(start.white_noise, 0))


def _known_mean(settings: ModelSettings, y: Tensor) -> Tensor | None:
    """The mean that is given for targets that are not normalised, (t,)."""
    mean = settings.options.get("mean")
    return None if mean is None else known_mean(mean, y)

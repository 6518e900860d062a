"""Samples of hyperparameters from their posterior, by the No-U-Turn sampler."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.autograd import with_gradients
from sggp.defaults import MEMORY_BUDGET, NUM_SAMPLES
from sggp.errors import InputError, ShapeError, missing_extra
from sggp.hyperparameters.coordinates import Coordinates, public_name
from sggp.hyperparameters.exact.quasi_newton import Box, lbfgs
from sggp.hyperparameters.problem import FitProblem, Options, at_least
from sggp.hyperparameters.result import Trace
from sggp.hyperparameters.sampling.density import LogDensity
from sggp.random import draw_seed, streams

_SCATTER = 0.3  # spread of the chains' starts about the mode, in log coordinates
_R_HAT = 1.1
_DIVERGENT = 0.05  # share of transitions


@dataclass(frozen=True)
class HyperparameterSamples:
    """Draws from the posterior over hyperparameters.

    Attributes:
        values: constrained values by GPyTorch name: (D,) or (D, k), one row per draw; with `noise_variance` where it
            was learnt, and `mean`.
        noise_variance: (D,) draws, or what was given: a scalar or (n,) tensor.
        mean: (D,) constant means, each drawn from its exact conditional; or what was given, D times.
        log_density: (D,) log posterior density in log coordinates, up to a constant.
        r_hat: split R-hat by coordinate name; near 1 once the chains agree.
        effective_sample_size: of all draws before thinning, by coordinate name.
        divergences: transitions (after the warm-up) whose energy blew up.
        transitions: after the warm-up, over all chains. evaluations: of the marginal likelihood, altogether.
        seconds: wall-clock seconds.
        coordinates: (D, p) the draws as the sampler moved them.
    """

    values: dict[str, Tensor]
    noise_variance: Tensor
    mean: Tensor
    log_density: Tensor
    r_hat: dict[str, float]
    effective_sample_size: dict[str, float]
    divergences: int
    transitions: int
    evaluations: int
    seconds: float
    coordinates: Tensor = field(repr=False)
    template: Kernel = field(repr=False)

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def converged(self) -> bool:
        """Whether every split R-hat is below 1.1 and less than 5 % of the transitions diverged."""
        agree = all(value < _R_HAT for value in self.r_hat.values())
        return agree and self.divergences <= _DIVERGENT * self.transitions

    def kernels(self) -> Iterator[Kernel]:
        """The D kernels, each a new one with nothing left to learn."""
        for u in self.coordinates:
            duplicate = copy.deepcopy(self.template)
            coordinates = Coordinates(duplicate)
            coordinates.assign(u[: coordinates.size])
            yield duplicate.requires_grad_(False)

    def noises(self) -> Iterator[float | Tensor]:
        """The D noise variances: numbers, or the (n,) tensor that was given."""
        for i in range(len(self)):
            if "noise_variance" in self.values:
                yield float(self.noise_variance[i])
            else:
                yield self.noise_variance if self.noise_variance.dim() else float(self.noise_variance)


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of `sample_hyperparameters`, where they are explained."""

    num_samples: int = NUM_SAMPLES
    warmup: int = 150
    thinning: int = 4
    num_chains: int = 2
    max_tree_depth: int = 7
    target_acceptance: float = 0.8
    memory_budget: float = MEMORY_BUDGET

    def __post_init__(self) -> None:
        at_least(self, num_samples=1, warmup=0, thinning=1, num_chains=1, max_tree_depth=1, memory_budget=0)
        if not 0 < self.target_acceptance < 1:
            raise InputError(f"target_acceptance must be between 0 and 1, got {self.target_acceptance!r}.")
        if self.kept < 4:
            raise InputError("fewer than four transitions per chain: ask for more samples or fewer chains.")

    @property
    def kept(self) -> int:
        """Transitions of each chain after the warm-up."""
        return -(-self.num_samples // self.num_chains) * self.thinning


OPTIONS = Options("sample_hyperparameters", SamplingSettings)


@OPTIONS.shown
@with_gradients()
def sample_hyperparameters(kernel: Kernel, x: Tensor, y: Tensor, **options: Any) -> HyperparameterSamples:
    """Draw length scales, output scale, noise variance and mean from p(hyperparameters | y), for small n.

    p(theta | y) ∝ N(y; m 1, K_theta + sigma^2 I) p(theta), sampled by NUTS in log coordinates, the Jacobian included. A
    constant mean that is not given is integrated out under a flat prior; each draw then gets a mean from its exact
    conditional N(m_GLS, 1 / 1^T H^-1 1).

    GPyTorch priors are used as they are. Parameters without one get a weak log-normal prior in the units of the data:
    length scales of median sqrt(sum of the variances of the columns they act on) and output scales of median mean
    square of y about its mean, both of log-spread 2; noise of median 0.02 of that mean square and log-spread 3;
    everything else of its starting value and log-spread 2.

    Args:
        kernel: any GPyTorch kernel; parameters with `requires_grad=False` stay. It is copied, never changed.
        x: (n, d) rows, floats or integer fingerprints. y: (n,) targets.
        noise_variance: a known noise variance, a number or (n,); None draws it. mean: a known one; None draws it.
        initial_noise_variance (of the search for the mode), noise_floor, noise_prior: as in `learn_hyperparameters`.
        num_samples: D, draws that are returned, over all chains; rounded up to a multiple of `num_chains`.
        warmup: transitions per chain that tune step size and (diagonal) mass matrix and are dropped.
        thinning: of this many transitions one is returned: what is predicted costs by the draw, and neighbouring draws
            say much the same.
        num_chains: chains, one after another, from starts scattered about the posterior mode.
        max_tree_depth: at most 2^this - 1 evaluations per transition.
        target_acceptance: more is slower and diverges less.
        memory_budget: bytes; about ten (n, n) float64 matrices must fit.
        generator: seed or generator of everything that is drawn; torch's and Pyro's global states are left alone.
        callback: called after every transition with a record as in `FitResult.trace` (`value` is the log density per
            row).

    Returns:
        HyperparameterSamples; look at `converged`, `r_hat` and `effective_sample_size` before trusting them.

    Raises:
        MissingExtra: Pyro is not installed. MemoryBudgetError: n is too large. ShapeError: several targets.
        InputError: unusable data or settings.

    Cost: some ten evaluations of n^3 flops per transition; about 20 s in all for 100 rows and ten length scales.

    Source: Hoffman and Gelman 2014 (NUTS, as Pyro has it); Rasmussen & Williams 2006, sections 2.7 (mean) and 5.2.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters import sample_hyperparameters
        >>> x = torch.linspace(0, 1, 15, dtype=torch.float64)[:, None]
        >>> y, kernel = torch.sin(6 * x[:, 0]), gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        >>> draws = sample_hyperparameters(kernel, x, y, num_samples=2, warmup=5, generator=0)
        >>> draws.values["outputscale"].shape
        torch.Size([2])
    """
    return draw_hyperparameters(*OPTIONS.read(kernel, x, y, options))


def draw_hyperparameters(problem: FitProblem, settings: SamplingSettings) -> HyperparameterSamples:
    """`sample_hyperparameters` for a checked problem."""
    nuts = _nuts()
    if problem.y.shape[1] != 1:
        raise ShapeError(
            f"y must have one target, got {problem.y.shape[1]}: draw for each of them on its own."
        )
    if bool((problem.y == problem.y[0]).all()):
        raise InputError("all targets are equal: they say nothing about hyperparameters.")
    problem.check_memory(
        settings.memory_budget, "sample on a subset, or use learn_hyperparameters for a point estimate"
    )
    density = LogDensity(problem)
    start_stream, chain_stream, mean_stream = streams(problem.generator, "starts", "chains", "means")
    mode = _mode(density)
    run = _Run(nuts, density, settings, problem.trace())
    chains = []
    for number in range(settings.num_chains):
        start = _start(density, mode, number, start_stream)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed(chain_stream))
            chains.append(run.chain(start))
    return _collect(run, torch.stack(chains), mean_stream)


def _nuts() -> Any:
    try:
        from pyro.infer import NUTS
    except ImportError as error:
        raise missing_extra("sampling hyperparameters needs Pyro", "mcmc", error) from error
    return NUTS


def _mode(density: LogDensity) -> Tensor:  # (p,)
    """The coordinates of largest density reached from the present ones."""

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = density(torch.as_tensor(u, dtype=torch.float64))
        return (-value if math.isfinite(value) else 1e25), -gradient.numpy()

    start, box = density.coordinates.vector().numpy(), Box.of(density.coordinates)
    return torch.as_tensor(lbfgs(objective, start, box).x, dtype=torch.float64)


def _start(density: LogDensity, mode: Tensor, number: int, stream: torch.Generator) -> Tensor:  # (p,)
    """The mode itself for the first chain, a place near it for the others."""
    if number == 0:
        return mode.clone()
    for scatter in (_SCATTER, 0.1 * _SCATTER, 0.0):
        start = mode + scatter * torch.randn(mode.shape, generator=stream, dtype=mode.dtype)
        if math.isfinite(density(start)[0]):
            break
    return start


class _Energy(torch.autograd.Function):
    """Minus the log density, with the gradient that came with it."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, density: LogDensity) -> Tensor:
        value, gradient = density(u.detach())
        ctx.save_for_backward(gradient)
        return torch.tensor(-value, dtype=u.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return -upstream[0] * gradient, None


class _Run:
    """Chains of one density; what they have in common and what they add up to."""

    def __init__(self, nuts: Any, density: LogDensity, settings: SamplingSettings, trace: Trace) -> None:
        self.nuts, self.density, self.settings, self.trace = nuts, density, settings, trace
        self.steps, self.divergences = 0, 0

    def chain(self, start: Tensor) -> Tensor:  # (p,) -> (kept, p)
        """One chain, drawing from torch's global generator as Pyro does."""
        settings = self.settings
        sampler = self.nuts(
            potential_fn=lambda z: _Energy.apply(z["u"], self.density),
            max_tree_depth=settings.max_tree_depth,
            target_accept_prob=settings.target_acceptance,
        )
        sampler.initial_params = {"u": start}
        sampler.setup(settings.warmup)
        place, kept = sampler.initial_params, []
        for number in range(settings.warmup + settings.kept):
            place = sampler.sample(place)
            if number >= settings.warmup:
                kept.append(place["u"].detach().clone())
            self._report(place["u"].detach())
        self.divergences += len(sampler.diagnostics()["divergences"])
        sampler.cleanup()
        return torch.stack(kept)

    def _report(self, u: Tensor) -> None:
        self.steps += 1
        if self.trace.callback is None:
            return
        (value, gradient), n = self.density(u), len(self.density.y)
        self.trace.add(
            self.steps, value / n, float(gradient.abs().max()) / n, self.density.coordinates.values()
        )
        self.trace.report()


def _names(coordinates: Coordinates) -> list[str]:
    """One name per coordinate, as GPyTorch calls the value."""
    sizes = {public_name(item.name): item.parameter.numel() for item in coordinates.items}
    return [n if size == 1 else f"{n}[{i}]" for n, size in sizes.items() for i in range(size)]


def _collect(run: _Run, chains: Tensor, stream: torch.Generator) -> HyperparameterSamples:
    """Diagnostics of all draws, and every thinning-th of them with its values and a mean."""
    from pyro.ops.stats import effective_sample_size, split_gelman_rubin

    density, coordinates = run.density, run.density.coordinates
    thinning = run.settings.thinning
    draws = chains[:, thinning - 1 :: thinning].reshape(-1, chains.shape[2])
    values: dict[str, list[Any]] = {}
    means, heights = [], []
    for u in draws:
        heights.append(density(u)[0])
        moments = density.moments(u)
        noisy = torch.randn((), generator=stream, dtype=torch.float64) * moments.variance**0.5
        means.append(moments.centre + float(noisy))
        for name, value in coordinates.values().items():
            values.setdefault(name, []).append(value)
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    mean = torch.tensor(means, dtype=torch.float64)
    names = _names(coordinates)
    template = copy.deepcopy(coordinates.kernel)
    for parameter in template.parameters():
        parameter.grad = None
    return HyperparameterSamples(
        values={**tensors, "mean": mean},
        noise_variance=tensors["noise_variance"] if density.noise is None else density.noise,
        mean=mean,
        log_density=torch.tensor(heights, dtype=torch.float64),
        r_hat=dict(zip(names, split_gelman_rubin(chains).tolist(), strict=True)),
        effective_sample_size=dict(zip(names, effective_sample_size(chains).tolist(), strict=True)),
        divergences=run.divergences,
        transitions=chains.shape[0] * chains.shape[1],
        evaluations=density.evaluations,
        seconds=time.perf_counter() - run.trace.started,
        coordinates=draws,
        template=template,
    )

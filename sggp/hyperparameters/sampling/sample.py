"""Samples of hyperparameters from their posterior, by the No-U-Turn sampler."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy.optimize import minimize
from torch import Tensor

from sggp.defaults import MEMORY_BUDGET, NUM_SAMPLES
from sggp.errors import InputError, MemoryBudgetError, MissingExtra, ShapeError
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.problem import check_data, check_mean, check_noise
from sggp.hyperparameters.sampling.density import LogDensity
from sggp.random import as_generator, draw_seed, streams
from sggp.typing import Seed

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


def sample_hyperparameters(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    noise_variance: float | Tensor | None = None,
    mean: float | None = None,
    initial_noise_variance: float | None = None,
    noise_floor: float | None = None,
    noise_prior: Any = None,
    num_samples: int = NUM_SAMPLES,
    warmup: int = 150,
    thinning: int = 4,
    num_chains: int = 2,
    max_tree_depth: int = 7,
    target_acceptance: float = 0.8,
    memory_budget: float = MEMORY_BUDGET,
    generator: Seed = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> HyperparameterSamples:
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
        noise_variance: a known noise variance, a number or (n,); None draws it.
        mean: a known constant mean; None draws it.
        initial_noise_variance: where the search for the mode starts; default a tenth of the variance of y.
        noise_floor: the noise stays above it; default 1e-6 of the variance of y.
        noise_prior: a GPyTorch prior on the noise variance.
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
        >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        >>> draws = sample_hyperparameters(kernel, x, torch.sin(6 * x[:, 0]), num_samples=2, warmup=5, generator=0)
        >>> draws.values["outputscale"].shape
        torch.Size([2])
    """
    nuts = _nuts()
    started = time.perf_counter()
    x, y = check_data(x, y)
    _check_settings(len(x), y, num_samples, warmup, thinning, num_chains, memory_budget)
    noise = check_noise(noise_variance, len(x))
    known = check_mean(mean, 1)
    duplicate = copy_kernel(kernel, x.device)
    density = LogDensity(
        duplicate,
        x,
        y,
        noise=None if noise is None else noise.to(x.device),
        mean=None if known is None else known.to(x.device),
        noise_prior=noise_prior,
        initial_noise_variance=initial_noise_variance,
        noise_floor=noise_floor,
    )
    start_stream, chain_stream, mean_stream = streams(as_generator(generator), "starts", "chains", "means")
    mode = _mode(density)
    kept = -(-num_samples // num_chains) * thinning
    run = _Run(nuts, density, warmup, kept, max_tree_depth, target_acceptance, started, callback)
    chains = []
    for number in range(num_chains):
        start = _start(density, mode, number, start_stream)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed(chain_stream))
            chains.append(run.chain(start))
    return _collect(run, torch.stack(chains), thinning, noise, mean_stream)


def _nuts() -> Any:
    try:
        from pyro.infer import NUTS
    except ImportError as error:
        raise MissingExtra('sampling hyperparameters needs Pyro: pip install "sggp[mcmc]".') from error
    return NUTS


def _check_settings(
    n: int, y: Tensor, num_samples: int, warmup: int, thinning: int, num_chains: int, memory_budget: float
) -> None:
    if y.shape[1] != 1:
        raise ShapeError(f"y must have one target, got {y.shape[1]}: draw for each of them on its own.")
    if min(num_samples, thinning, num_chains) < 1 or warmup < 0:
        raise InputError(
            "num_samples, thinning and num_chains must be positive and warmup at least 0, got "
            f"{num_samples}, {thinning}, {num_chains} and {warmup}."
        )
    if -(-num_samples // num_chains) * thinning < 4:
        raise InputError("fewer than four transitions per chain: ask for more samples or fewer chains.")
    if bool((y == y[0]).all()):
        raise InputError("all targets are equal: they say nothing about hyperparameters.")
    needed = 10 * 8 * n * n
    if needed > memory_budget:
        raise MemoryBudgetError(
            f"an exact marginal likelihood of {n} rows needs about {needed / 2**30:.1f} GiB, the budget is "
            f"{memory_budget / 2**30:.1f} GiB: sample on a subset, or use learn_hyperparameters for a point estimate."
        )


def _mode(density: LogDensity) -> Tensor:  # (p,)
    """The coordinates of largest density reached from the present ones."""

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = density(torch.as_tensor(u, dtype=torch.float64))
        return (-value if math.isfinite(value) else 1e25), -gradient.numpy()

    lower, upper = density.coordinates.bounds()
    found = minimize(
        objective,
        density.coordinates.vector().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(lower.tolist(), upper.tolist(), strict=True)),
    )
    return torch.as_tensor(found.x, dtype=torch.float64)


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

    def __init__(
        self,
        nuts: Any,
        density: LogDensity,
        warmup: int,
        kept: int,
        max_tree_depth: int,
        target_acceptance: float,
        started: float,
        callback: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.nuts, self.density, self.warmup, self.kept = nuts, density, warmup, kept
        self.settings = {"max_tree_depth": max_tree_depth, "target_accept_prob": target_acceptance}
        self.started, self.callback = started, callback
        self.steps, self.divergences = 0, 0

    def chain(self, start: Tensor) -> Tensor:  # (p,) -> (kept, p)
        """One chain, drawing from torch's global generator as Pyro does."""
        sampler = self.nuts(potential_fn=lambda z: _Energy.apply(z["u"], self.density), **self.settings)
        sampler.initial_params = {"u": start}
        sampler.setup(self.warmup)
        place, kept = sampler.initial_params, []
        for number in range(self.warmup + self.kept):
            place = sampler.sample(place)
            if number >= self.warmup:
                kept.append(place["u"].detach().clone())
            self._report(place["u"].detach())
        self.divergences += len(sampler.diagnostics()["divergences"])
        sampler.cleanup()
        return torch.stack(kept)

    def _report(self, u: Tensor) -> None:
        self.steps += 1
        if self.callback is None:
            return
        value, gradient = self.density(u)
        self.callback(
            {
                "step": self.steps,
                "value": value / len(self.density.y),
                "gradient_norm": float(gradient.abs().max()) / len(self.density.y),
                "seconds": time.perf_counter() - self.started,
                "values": self.density.coordinates.values(),
            }
        )


def _names(coordinates: Coordinates) -> list[str]:
    """One name per coordinate, as GPyTorch calls the value."""
    out = []
    for item in coordinates.items:
        name = ".".join(part.removeprefix("raw_") for part in item.name.split("."))
        size = item.parameter.numel()
        out += [name] if size == 1 else [f"{name}[{i}]" for i in range(size)]
    return out


def _collect(
    run: _Run, chains: Tensor, thinning: int, noise: Tensor | None, stream: torch.Generator
) -> HyperparameterSamples:
    """Diagnostics of all draws, and every thinning-th of them with its values and a mean."""
    from pyro.ops.stats import effective_sample_size, split_gelman_rubin

    density, coordinates = run.density, run.density.coordinates
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
        noise_variance=tensors["noise_variance"] if noise is None else noise,
        mean=mean,
        log_density=torch.tensor(heights, dtype=torch.float64),
        r_hat=dict(zip(names, split_gelman_rubin(chains).tolist(), strict=True)),
        effective_sample_size=dict(zip(names, effective_sample_size(chains).tolist(), strict=True)),
        divergences=run.divergences,
        transitions=chains.shape[0] * chains.shape[1],
        evaluations=density.evaluations,
        seconds=time.perf_counter() - run.started,
        coordinates=draws,
        template=template,
    )

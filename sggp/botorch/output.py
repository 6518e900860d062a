"""One output of a `PathwiseGPModel`: its data, its hyperparameters, its solved posterior and its paths."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import ConstantMean
from gpytorch.utils.warnings import NumericalWarning
from torch import Tensor

from sggp import fitting
from sggp.autograd import undisturbed
from sggp.posterior import PathwiseSamples, Posterior, Solving, condition_together
from sggp.posterior.kernel_values import ReadNamed, WriteNamed
from sggp.random import streams
from sggp.typing import FailurePolicy

if TYPE_CHECKING:
    from sggp.hyperparameters.auto import Optimizer

_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class SolveSettings:
    """How a posterior is learnt and solved; see `PathwiseGPModel` for the meaning of each."""

    model: fitting.ModelSettings
    tolerance: Any
    on_failure: FailurePolicy


@dataclass(frozen=True)
class Given:
    """Hyperparameters as the user gives them, in the working units; None for those that are to be found.

    Attributes:
        kernel: covariance; copied. None is the default of `sggp.GPRegressor`.
        noise_variance: known noise variance. mean: constant prior mean.
    """

    kernel: Kernel | None
    noise_variance: float | None
    mean: float


def solve_together(outputs: Sequence[OutputGP]) -> list[Posterior]:
    """Solve for the posteriors of outputs that are the `same_system`, in one block, and give them to these."""
    first, settings = outputs[0], outputs[0].settings
    noise, kernel = first.noise_variance, first.covar_module
    if first._learnt_mean:
        kernel = fitting.with_unknown_constant(kernel, len(first.x), settings.model.solver)
    posteriors = condition_together(
        kernel,
        first.x,
        torch.stack([output.y for output in outputs], 1),
        noise_variance=float(noise) if noise.ndim == 0 else noise,
        priors=[(float(o.mean_module.constant.detach()), o._stream("condition")) for o in outputs],
        num_samples=first.num_samples,
        how=Solving(
            settings.model.num_features, settings.model.solver, settings.tolerance, settings.on_failure
        ),
    )
    for output, posterior in zip(outputs, posteriors, strict=True):
        output._posterior = posterior
    return posteriors


def _same_kernel(first: Kernel, second: Kernel) -> bool:
    """Whether two kernels are certainly equal: of the same parts, values and settings."""
    values = [kernel.state_dict() for kernel in (first, second)]
    parts = [dict(kernel.named_modules()) for kernel in (first, second)]
    if values[0].keys() != values[1].keys() or parts[0].keys() != parts[1].keys():
        return False
    return all(torch.equal(value, values[1][name]) for name, value in values[0].items()) and all(
        _same_settings(part, parts[1][name]) for name, part in parts[0].items()
    )


def _same_settings(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two modules are of one class with the same attributes, but for what torch keeps in them."""
    mine, theirs = vars(first), vars(second)
    if type(first) is not type(second) or mine.keys() != theirs.keys():
        return False
    plain = (int, float, str, bool, tuple)
    return all(
        value is theirs[name]
        or (name in _KEPT_BY_TORCH and isinstance(value, dict | set))
        or (isinstance(value, plain) and value == theirs[name])
        for name, value in mine.items()
    )


_KEPT_BY_TORCH = frozenset(vars(ConstantMean()))


def _with_picklable_priors(kernel: Kernel) -> Kernel:
    """`kernel` itself, the functions of whose priors Python can pickle where they do no more than name a parameter.

    GPyTorch makes local functions of names, and some of its kernels give lambdas.
    """
    for part in kernel.modules():
        for key, (prior, read, write) in list(getattr(part, "_priors", {}).items()):
            name = key.removesuffix("_prior")
            value = getattr(part, name, None)
            local = any("<l" in getattr(f, "__qualname__", "") for f in (read, write))  # <locals>, <lambda>
            if local and isinstance(value, Tensor) and torch.equal(read(part), value):
                part._priors[key] = (prior, ReadNamed(name), WriteNamed(name))
    return kernel


class OutputGP(torch.nn.Module):
    """A Gaussian process of one output, conditioned lazily, whose paths can always be extended.

    Path number i is a fixed function of the data, the hyperparameters and `seed`. Paths 0..S-1 come with the
    posterior; further ones are drawn in chunks of S, 2S, 4S, ..., each with a random stream of its own, so that path i
    does not depend on how many paths were asked for before. All have the same features and are evaluated together.

    Args:
        x: inputs after the model's input transform, (n, d); kept, like all that follows, in float64.
        y: targets after the outcome transform, (n,).
        noise: known noise variance per row in the same units, (n,), or None.
        given: hyperparameters that are known, or where learning starts.
        settings: how to solve.
        seed: root of all random streams of this output.
    """

    x: Tensor
    y: Tensor
    known_noise: Tensor | None
    _posterior: Posterior | None
    _drawn: PathwiseSamples | None

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        noise: Tensor | None,
        *,
        given: Given,
        settings: SolveSettings,
        seed: int,
    ) -> None:
        super().__init__()
        self.x, self.y = x.double(), y.double()
        self.known_noise = None if noise is None else noise.double()
        self.settings = settings
        self._seed = seed
        self._given_noise = given.noise_variance
        self._default = given.kernel is None
        self._learnt_mean = False
        kernel = (
            fitting.default_kernel(self.x, self.y) if given.kernel is None else copy.deepcopy(given.kernel)
        )
        self.covar_module = _with_picklable_priors(kernel.to(self.x))
        self.mean_module = ConstantMean().to(self.x)
        self._set_mean(given.mean)
        self.likelihood = self._make_likelihood(1e-2 if self._given_noise is None else self._given_noise)
        self.invalidate()

    @property
    def num_samples(self) -> int:
        """Number S of paths that come with the posterior."""
        return self.settings.model.num_samples

    @property
    def noise_variance(self) -> Tensor:
        """Noise variance in the working units: () learned or given, or (n,) known per row."""
        if self.known_noise is not None:
            return self.known_noise
        return self.likelihood.noise.detach().reshape(())

    @property
    def posterior(self) -> Posterior:
        """The solved posterior (`sggp.posterior.Posterior`) in the working units; solved at first use."""
        return self._posterior or solve_together([self])[0]

    @property
    def solved(self) -> bool:
        """Whether there is a posterior already."""
        return self._posterior is not None

    def same_system(self, other: OutputGP) -> bool:
        """Whether the other output has the same inputs, kernel, noise and settings: only the targets differ."""
        return (
            self.settings is other.settings
            and self._learnt_mean == other._learnt_mean
            and _same_kernel(self.covar_module, other.covar_module)
            and torch.equal(self.x, other.x)
            and torch.equal(self.noise_variance, other.noise_variance)
        )

    def learn(self, optimizer: Optimizer) -> None:
        """Learn kernel, mean and (unless it is known) noise from the data, as `sggp.GPRegressor` does.

        The default kernel is learnt for standardised inputs and targets and rewritten for the given ones; a kernel that
        was given is learnt as it is, starting at its present values.
        """
        known = self._given_noise if self.known_noise is None else self.known_noise.double().cpu().numpy()
        settings = replace(
            self.settings.model,
            kernel=None if self._default else self.covar_module,
            noise_variance=known,
            optimizer=optimizer,
            normalise=self._default,
        )
        model = fitting.fit_model(self.x, self.y[:, None], settings, self._stream("learn"))
        learned = model.in_units()
        self.covar_module = _with_picklable_priors(learned.kernel.to(self.x))
        self._set_mean(learned.mean)
        self._learnt_mean = model.learnt_mean
        if known is None:
            self.likelihood = self._make_likelihood(learned.noise_variance)
        self.invalidate()

    def invalidate(self) -> None:
        """Forget what was solved: data or hyperparameters have changed."""
        self._posterior = None
        self._drawn = None

    def updated(self, x: Tensor, y: Tensor, noise: Tensor | None) -> OutputGP:
        """This output given further rows, with the same hyperparameters and prior draws.

        Args:
            x, y: new rows after the transforms, (n', d) and (n',).
            noise: their noise variance (n',); None repeats the learned one, or the mean of the known ones.
        """
        out = copy.copy(self)
        out.__dict__ = dict(self.__dict__)
        out._modules = dict(self._modules)
        old = self.noise_variance
        new = old.mean().expand(len(y)) if noise is None else noise
        if old.ndim or noise is not None:
            out.known_noise = torch.cat([old.expand(len(self.y)), new])
        out.x, out.y = torch.cat([self.x, x]), torch.cat([self.y, y])
        out.likelihood = out._make_likelihood(float(old.mean()))
        stream = self._stream(f"update:{len(self.y)}")
        out._posterior = self.posterior.update(x, y, noise_variance=new, generator=stream)
        out._drawn = None
        return out

    def mean(self, points: Tensor) -> Tensor:
        """Solved mean at `points` (..., q, d), (..., q); differentiable."""
        return self._by_rows(self.posterior.mean, points, 1)

    def variance(self, points: Tensor) -> Tensor:
        """Variance of f at `points` (..., q, d), (..., q): solved where the posterior is direct; differentiable."""
        return self._by_rows(self.posterior.variance, points, 1)

    def covariance_matrix(self, points: Tensor) -> Tensor:
        """Joint covariance of f at `points` (..., q, d), (..., q, q); differentiable."""
        return self.posterior.covariance_matrix(points.to(self.x)).to(self.x)

    def evaluate(self, points: Tensor, start: int, stop: int) -> Tensor:
        """Paths start..stop-1 at shared `points` (..., q, d), (stop - start, ..., q); differentiable."""
        if start == stop:
            return self.x.new_zeros(0, *points.shape[:-1])
        return self._by_rows(self._paths(start, stop), points, stop - start)

    def _by_rows(self, function: Callable[[Tensor], Tensor], points: Tensor, columns: int) -> Tensor:
        """function, (rows, d) to (..., rows), of `points` (..., q, d), (..., ..., q), in the dtype of the data.

        Rows are converted and evaluated in blocks: a copy of a large set of fingerprints in float64 would be the
        largest thing in memory by far.
        """
        flat = points.reshape(-1, points.shape[-1])
        size = max(1, _BLOCK_BYTES // (8 * max(points.shape[-1], columns)))
        parts = [function(rows.to(self.x)).to(self.x) for rows in flat.split(size)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return whole.reshape(*whole.shape[:-1], *points.shape[:-1])

    def evaluate_paired(self, points: Tensor, start: int) -> Tensor:
        """Path start + i at its own `points[i]`: (s, ..., q, d) to (s, ..., q); differentiable."""
        return self._paths(start, start + len(points)).paired(points).to(self.x)

    def noise(self, q: int, count: int) -> Tensor:
        """Standard normal observation noise of the first `count` paths at q positions, (count, q); always the same."""
        parts = [torch.zeros(0, q, dtype=self.x.dtype)]
        for number, (_, size) in enumerate(takewhile(lambda chunk: chunk[0] < count, self._chunks())):
            parts.append(torch.randn(size, q, generator=self._stream(f"noise:{number}"), dtype=self.x.dtype))
        return torch.cat(parts)[:count]

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """(first path, number of paths) of the chunks: S, S, 2S, 4S, ..."""
        start, size = 0, self.num_samples
        while True:
            yield start, size
            start, size = start + size, start + size

    @undisturbed()
    def _paths(self, start: int, stop: int) -> PathwiseSamples:
        """The paths start..stop-1; draws chunks that are missing."""
        drawn = self.posterior.samples if self._drawn is None else self._drawn
        for first, size in takewhile(lambda chunk: chunk[0] < stop, self._chunks()):
            if first == drawn.num_samples:
                drawn = drawn.joined(self.posterior.more_samples(size, self._stream(f"paths:{first}")))
        self._drawn = drawn
        whole = (start, stop) == (0, drawn.num_samples)
        return drawn if whole else drawn.select(torch.arange(start, stop))

    def _stream(self, name: str) -> torch.Generator:
        return streams(torch.Generator().manual_seed(self._seed), name)[0]

    def _set_mean(self, value: float) -> None:
        with torch.no_grad():
            self.mean_module.constant.fill_(value)

    def _make_likelihood(self, noise_variance: float) -> GaussianLikelihood | FixedNoiseGaussianLikelihood:
        if self.known_noise is not None:
            with warnings.catch_warnings():
                # GPyTorch rounds tiny noise up in its likelihood; the solves do not use it
                warnings.simplefilter("ignore", NumericalWarning)
                return FixedNoiseGaussianLikelihood(noise=self.known_noise)
        likelihood = GaussianLikelihood(noise_constraint=Positive()).to(self.x)
        likelihood.noise = torch.tensor(noise_variance, dtype=self.x.dtype)  # a float is rounded to float32
        return likelihood

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> OutputGP:
        super()._apply(fn, recurse)
        probe = fn(self.x[:0])
        if probe.device != self.x.device:
            self.x, self.y = self.x.to(probe.device), self.y.to(probe.device)
            if self.known_noise is not None:
                self.known_noise = self.known_noise.to(probe.device)
            self.invalidate()
        return self

"""The subset heuristic: exact marginal likelihoods of small neighbourhoods, averaged."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.autograd import with_gradients
from sggp.defaults import MEMORY_BUDGET
from sggp.errors import InputError
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel, lengthscale_columns
from sggp.hyperparameters.exact.fit import ExactSettings, log_density, maximise_exact
from sggp.hyperparameters.problem import FitProblem, Options, at_least
from sggp.hyperparameters.result import FitResult, Trace
from sggp.hyperparameters.unidentified import Unidentified, unidentified_columns
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, as_covariance
from sggp.random import streams
from sggp.running import time_is_up

_log = logging.getLogger(__name__)
_CONSTANT = 1e-14  # spread over size below which a column counts as constant


@dataclass(frozen=True)
class SubsetSettings:
    """Settings of `fit_subset`, where they are explained."""

    subsets: int = 10
    subset_rows: int = 1000
    max_iterations: int = 200
    tolerance: float = 1e-5
    memory_budget: float = MEMORY_BUDGET

    def __post_init__(self) -> None:
        at_least(self, subsets=1, subset_rows=2)


OPTIONS = Options("fit_subset", SubsetSettings)


@dataclass(frozen=True)
class _Piece:
    """What one subset says."""

    problem: FitProblem
    fit: FitResult
    coordinates: Tensor  # (p,) of the kernel
    varies: Tensor  # (d,) which columns do


@OPTIONS.shown
@with_gradients()
def fit_subset(kernel: Kernel, x: Tensor, y: Tensor, **options: Any) -> FitResult:
    """Fit the exact marginal likelihood on a few neighbourhoods and average what they say.

    A random row and the `subset_rows` rows nearest to it (itself among them) make a subset; on each, `fit_exact`
    maximises the marginal likelihood; the values are averaged over the subsets. Nearest is in Euclidean distance of
    columns scaled to unit spread, or in similarity where the kernel holds a Tanimoto kernel.

    It is the recipe of the stochastic-gradient papers and stands here for comparison: a neighbourhood shows less
    variance than the whole and often other length scales, so `fit_nearest_neighbour` is usually better and cheaper.

    Args:
        kernel: any GPyTorch kernel; its present values are every subset's start. It is copied, never changed.
        x: (n, d) rows; integer fingerprints stay integer. y: (n,) targets or (n, t) sharing the hyperparameters.
        noise_variance, mean, noise_floor: as in `learn_hyperparameters`.
        initial_noise_variance, noise_prior, max_iterations, tolerance, memory_budget: of each `fit_exact`.
        subsets: how many; one where a subset holds all rows. The papers take 10.
        subset_rows: rows of each. The papers take 10,000, which is hours on a laptop; 1,000 (the default) is about a
            minute for all ten. More rows reach further and show more of the output scale.
        generator: for the random rows.
        callback: called once per subset with its record of the trace.

    Returns:
        FitResult with method "subset". Its trace has one record per subset, with that subset's own values. Its
        `log_marginal_likelihood` is the sum over rows of what the averaged values give on the subsets, each row being
        conditioned on its subset only: an estimate of a block-wise likelihood, below that of all rows together.
        `unidentified` names the columns that are constant in every subset.

    Raises:
        InputError: unusable data or settings, or no subset whose targets vary. MemoryBudgetError: `subset_rows` is
            too large for the budget.

    Cost: `subsets` exact fits, some 60 evaluations of m^3 flops each; a search of subsets·n distances.

    Source: Lin et al. 2023 (stochastic gradient descent for Gaussian processes), section 4; code of the same.

    Departures: 1. Averages are taken over log coordinates (geometric for positive values), the mean's is arithmetic.
        2. L-BFGS to convergence in place of 300 steps of Adam. 3. A learnt constant mean. 4. A column that is
        constant within a subset has no say there: its length scale comes from the subsets where it varies. 5. Subsets
        whose targets are all equal are left out. 6. Default sizes.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters.exact.subset import fit_subset
        >>> x = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
        >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        >>> fit_subset(kernel, x, torch.sin(9 * x[:, 0]), subsets=2, subset_rows=30, generator=0).method
        'subset'
    """
    return average_subsets(*OPTIONS.read(kernel, x, y, options))


def average_subsets(problem: FitProblem, settings: SubsetSettings) -> FitResult:
    """`fit_subset` of a checked problem."""
    exact = ExactSettings(0, settings.max_iterations, settings.tolerance, settings.memory_budget)
    (stream,) = streams(problem.generator, "centroids")
    pieces: list[_Piece] = []
    trace = problem.trace()
    for rows in _subsets(problem.kernel, problem.x, settings.subsets, settings.subset_rows, stream):
        part = problem.part(rows)
        if bool((part.y == part.y[:1]).all()):
            _log.warning("a subset whose targets are all equal was left out")
            continue
        pieces.append(_fit_piece(part, exact))
        _record(trace, pieces[-1].fit)
        if time_is_up():
            break
    if not pieces:
        raise InputError("every subset has one target value only: take larger subsets or more of them.")
    return _average(problem, pieces, trace)


def _subsets(
    kernel: Kernel, x: Tensor, count: int, size: int, stream: torch.Generator
) -> list[Tensor]:  # of (m,)
    """Rows of each subset, ascending: a random row and those nearest to it."""
    n = len(x)
    if size >= n:
        return [torch.arange(n)]
    centroids = torch.randperm(n, generator=stream)[:count]
    tanimoto = next((m for m in kernel.modules() if isinstance(m, TanimotoMinMax | TanimotoDotProduct)), None)
    if tanimoto is not None:
        covariance = as_covariance(tanimoto)
        points = covariance.prepare(x)
        nearness = [covariance.block(points[row : row + 1], points)[0] for row in centroids.tolist()]
    else:
        z = x.to(torch.float64)
        spread = z.std(dim=0, correction=0)
        z = z / torch.where(spread > _CONSTANT * z.abs().amax(dim=0), spread, torch.inf)
        nearness = [-(z - z[row]).square().sum(dim=1) for row in centroids.tolist()]
    return [near.topk(size).indices.sort().values.cpu() for near in nearness]


def _fit_piece(part: FitProblem, settings: ExactSettings) -> _Piece:
    """The exact fit of one subset, as coordinates of the kernel."""
    fit = maximise_exact(part, settings)
    duplicate = copy_kernel(part.kernel, part.x.device)
    duplicate.load_state_dict(fit.kernel.state_dict())
    values = part.x.to(torch.float64)
    varies = values.amax(dim=0) - values.amin(dim=0) > _CONSTANT * values.abs().amax(dim=0)
    return _Piece(part, fit, Coordinates(duplicate).vector(), varies.cpu())


def _record(trace: Trace, fit: FitResult) -> None:
    nothing: dict[str, Any] = {"value": float("nan"), "gradient_norm": 0.0, "values": {}}
    last = fit.trace[-1] if fit.trace else nothing
    values = {**last["values"], "mean": fit.hyperparameters["mean"]}
    rows = {"rows": last["rows"]} if "rows" in last else {}
    trace.add(len(trace.records) + 1, last["value"], last["gradient_norm"], values, **rows)
    trace.report()


def _weights(kernel: Kernel, d: int, pieces: list[_Piece]) -> Tensor:  # (subsets, p)
    """Which subsets have a say in which coordinate: all, except in length scales of columns constant there."""
    columns = lengthscale_columns(kernel, list(range(d)))
    parts = []
    for item in Coordinates(kernel).items:
        said = torch.ones(len(pieces), item.parameter.numel(), dtype=torch.float64)
        for entry, own in enumerate(columns.get(id(item.parameter), [])):
            said[:, entry] = torch.tensor([float(piece.varies[own].any()) for piece in pieces])
        said[:, said.sum(dim=0) == 0] = 1.0  # nobody knows: priors and starting values remain
        parts.append(said / said.sum(dim=0))
    return torch.cat(parts, dim=1) if parts else torch.zeros(len(pieces), 0, dtype=torch.float64)


def _average(problem: FitProblem, pieces: list[_Piece], trace: Trace) -> FitResult:
    """The averaged values, what they are worth on the subsets, and how the fits ended."""
    duplicate = copy_kernel(problem.kernel, problem.x.device)
    coordinates = Coordinates(duplicate)
    if coordinates.size:
        weights = _weights(duplicate, problem.x.shape[1], pieces)
        coordinates.assign((weights * torch.stack([p.coordinates for p in pieces])).sum(dim=0))
    mean = torch.stack([torch.as_tensor(p.fit.mean, dtype=torch.float64).reshape(-1) for p in pieces]).mean(0)
    noise = problem.noise
    if noise is None:
        learnt = torch.tensor([float(p.fit.noise_variance) for p in pieces], dtype=torch.float64)
        noise = learnt.log().mean().exp()
    value, error = _value(duplicate, pieces, noise, mean)
    ended = sum(p.fit.converged for p in pieces)
    return problem.result(
        "subset",
        duplicate,
        noise,
        mean,
        trace=trace.records,
        log_marginal_likelihood=value * len(problem.x),
        log_marginal_likelihood_error=error * len(problem.x),
        converged=ended == len(pieces),
        gradient_norm=max(p.fit.gradient_norm for p in pieces),
        message=f"{len(pieces)} subsets of {len(pieces[0].problem.x)} rows, {ended} of their fits converged",
        unidentified_columns=_unidentified(duplicate, problem.x, pieces),
        steps=sum(p.fit.steps for p in pieces),
    )


def _value(kernel: Kernel, pieces: list[_Piece], noise: Tensor, mean: Tensor) -> tuple[float, float]:
    """The mean over subsets of the log marginal likelihood per row, and its standard error."""
    rates = []
    for part in (piece.problem for piece in pieces):
        own = part.noise if part.noise is not None else noise.to(part.x.device)
        known = replace(part, noise=own, mean=mean.to(part.x.device))
        rates.append(log_density(kernel, known) / len(part.x))
    rate = torch.tensor(rates, dtype=torch.float64)
    return float(rate.mean()), float(rate.std()) / len(rates) ** 0.5 if len(rates) > 1 else 0.0


def _unidentified(kernel: Kernel, x: Tensor, pieces: list[_Piece]) -> tuple[Unidentified, ...]:
    """Columns the whole table says nothing about, and those with a length scale that no subset could see."""
    out = {record.column: record for record in unidentified_columns(kernel, x)}
    entries = lengthscale_columns(kernel, list(range(x.shape[1]))).values()
    own = {entry[0] for columns in entries for entry in columns if len(entry) == 1}
    seen = torch.stack([piece.varies for piece in pieces]).any(dim=0)
    for column in own:
        if not bool(seen[column]):
            unseen = Unidentified(column, "constant", reason="constant in every subset")
            out.setdefault(column, unseen)
    return tuple(out[column] for column in sorted(out))

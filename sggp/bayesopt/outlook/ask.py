"""Asking joint posterior paths whether it is worth going on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import BoxSearch, Look, Paths, as_indices
from sggp.bayesopt.outlook.answer import Figure, Found, Outlook, Within, interval
from sggp.bayesopt.outlook.conditions import Condition, checked_conditions, conditioned_paths, rows_met
from sggp.bayesopt.outlook.recalibrate import recalibrate
from sggp.bayesopt.outlook.sweep import Swept, Truths, sweep
from sggp.bayesopt.spaces import Pool, Space, check_space
from sggp.bayesopt.surrogate import Surrogate
from sggp.checks import as_numbers, finite_number, flag, whole_number
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.random import as_generator, streams
from sggp.typing import Seed

_LEAST_PATHS = 16
_NEAR = 0.1
"""The second epsilon, in standard deviations of the measured values."""
_LARGEST = 1e150
_STEP_ROWS = 10
"""Values that must be multiples of a step: by chance one in 10^10 would."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        top: which best of a pool to count: shares below 1, numbers from 1 on; several at once.
        epsilon: distances from the best there is, in the values' units; None takes 0 and a tenth of the values'
            standard deviation.
        batch: pool: (b,) rows; box: (b, d) points that would be measured next. Choose them by a posterior with samples
            of its own: where the paths that are asked chose them, their gain is too good.
        noise_std: standard deviation of a measurement about the truth. None: a pool takes it from repeats, and 0
            without them; a box what the model learnt.
        search: how hard to look in a box.
        conditions: by name, what a place must meet to count: the best there is is then the best of those that do, along
            the paths of these models. met: (n,) bool, which measurements met them; None for all.
        failed: (f,) rows of a pool whose measurements failed, -1 for others: they do not count.
        progress: called with the number of pool rows done.
    """

    top: float | Sequence[float] = (0.01, 10)
    epsilon: float | Sequence[float] | None = None
    batch: Any = None
    noise_std: float | None = None
    search: BoxSearch | None = None
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    met: Any = None
    failed: Any = ()
    progress: Callable[[int], Any] | None = None


def outlook(
    model: Surrogate,
    space: Space,
    measured: Any,
    values: Any,
    *,
    maximize: bool,
    generator: Seed = None,
    **options: Any,
) -> Outlook:
    """How good the best found is beside the best there is, and what the next batch may bring.

    Over a pool each path gives every unmeasured row a value: the path there plus what the row has of its own, a normal
    number with the model's noise, because the noise of a model of molecules is mostly what its kernel does not see of
    each of them. The values of measured rows are known. Paths are corrected by what left-out measurements say against
    the model (`Recalibration`), with the uncertainty of this correction. Over a box the truth is the function itself
    and each path is maximised; nothing is corrected.

    Args:
        model: `fit_surrogate` of the measurements, with 64 to 512 samples, in the coordinates of ``space.scaled``.
        space: `Pool`, or `Box` in the coordinates of the model.
        measured: pool: (n,) rows, repeats allowed; -1 for a molecule outside, which is passed over. Box: (n, d) points.
        values: (n,) their values.
        maximize: whether larger is better.
        generator: seed or generator.
        options: what is asked beyond the defaults, by the names of `Question`: top, epsilon, batch, noise_std, search,
            conditions, met, failed, progress.

    Raises:
        InputError: nothing of the space has been measured, or nothing that meets the conditions, too few paths, or an
            argument that cannot be used.
        ShapeError: lengths differ.
        DtypeError: `space` is no space, or `model` no `Surrogate`.

    Cost: pool: N path evaluations per path, as one suggestion; memory O(2^20 + paths * n) beyond the pool; and n^3
        flops to leave measurements out. Box: two searches of `maximise_box`.
    """
    space = check_space(space)
    if not isinstance(model, Surrogate):
        raise DtypeError(f"model must be a Surrogate, as fit_surrogate gives, got {type(model).__name__}.")
    paths = int(model.posterior.num_samples)
    if paths < _LEAST_PATHS:
        raise InputError(
            f"the posterior carries {paths} sample paths; fit it with num_samples=64 or more, at least {_LEAST_PATHS}."
        )
    values = as_numbers(values, "values", "(n,) measured numbers").flatten().cpu()
    if not len(values):
        what = "nothing, with all that is constrained," if options.get("conditions") else "nothing"
        raise InputError(f"{what} has been measured yet: there is no outlook without a measurement.")
    if not bool(torch.isfinite(values).all()):
        raise InputError("a measured value is not finite; leave failed measurements out.")
    if float(values.abs().max()) > _LARGEST:
        raise InputError(
            f"the square of a value of {float(values.abs().max()):g} does not fit float64: withdraw it if it stands "
            "for a failure, else measure in a larger unit."
        )
    question = Question(**options)
    noise = None if question.noise_std is None else finite_number(question.noise_std, "noise_std")
    if noise is not None and noise < 0:
        raise InputError(f"noise_std must not be negative, got {noise}.")
    sign = 1.0 if flag(maximize, "maximize") else -1.0
    checked_conditions(question.conditions, paths)
    met = _met(question.met, len(values))
    asked = _Asked(
        model, sign, question, _epsilons(question.epsilon, values), noise, met, as_generator(generator)
    )
    return (_over_pool if isinstance(space, Pool) else _over_box)(asked, space, measured, values)


@dataclass(frozen=True)
class _Asked:
    model: Surrogate
    sign: float
    question: Question
    epsilons: tuple[float, ...]
    noise_std: float | None
    met: Tensor
    generator: torch.Generator

    def answer(self, there_is: Tensor, in_hand: Tensor, values: Tensor, **rest: Any) -> Outlook:
        """From the best there is (s,), the best found (s,) and a batch (s, b) on each path, larger being better."""
        regret = (there_is - in_hand).clamp_min(0.0)
        slack = 1e-9 * self.model.scale
        gain = None if not values.shape[1] else (values.max(1).values - in_hand).clamp_min(0.0)
        return Outlook(
            maximize=self.sign > 0,
            within=tuple(Within(e, Figure.probability(regret <= e + slack)) for e in self.epsilons),
            regret_median=Figure.quantile(regret, 0.5, self.generator),
            regret_90=Figure.quantile(regret, 0.9, self.generator),
            gain=None if gain is None else Figure.mean(gain),
            gain_probability=None if gain is None else Figure.probability(gain > slack),
            batch=values.shape[1],
            paths=len(there_is),
            learned=self.model.learned,
            conditions=tuple(f"{name} {one}" for name, one in self.question.conditions.items()),
            **rest,
        )


def _over_pool(asked: _Asked, pool: Any, measured: Any, values: Tensor) -> Outlook:
    model, sign = asked.model, asked.sign
    all_rows, good, values, counts, noise_std = _known(pool, measured, values, asked)
    rows = all_rows[good]
    question, top = asked.question, _tops(asked.question.top)
    chosen = as_indices(() if question.batch is None else question.batch, len(pool), what="batch")
    failed = as_indices(question.failed, None, what="failed")
    closed = pool.closed(torch.cat([all_rows, failed[failed >= 0]]).unique())  # of twins only one counts
    size = int(pool.capacity)
    of_batch = pool.find(pool.keys(chosen))
    if bool(torch.isin(of_batch, all_rows).any()) or len(of_batch.unique()) != len(chosen):
        raise InputError(
            "batch names a row twice, or one that has been measured; a twin of a row is that row."
        )
    correct, own, judge, *each = streams(
        asked.generator,
        "correction",
        "own parts",
        "judged",
        *(f"condition {name}" for name in question.conditions),
    )
    recalibration = recalibrate(model, sign, judge)
    own_std = max(model.noise_std**2 - noise_std**2, 0.0) ** 0.5 / model.scale
    step = 0.0 if noise_std else _step(values)
    truths = Truths(model, sign, recalibration.draw(model.posterior.num_samples, correct), own_std, step)
    known = _known_truths(truths, pool.rows(rows), sign * values, counts, noise_std, own)
    best_at = int(known.mean(0).argmax())
    best = float(sign * known[:, best_at].mean()) if noise_std else float(values[best_at])

    numbers = [_number_of(part, size) for part in top]
    floor = known.topk(min(max(numbers), known.shape[1]), dim=1).values[:, -1:]
    kept = int((known >= floor).sum(1).max())
    marks = known.topk(kept, dim=1).values.flip(1).contiguous()
    met = rows_met(question.conditions, len(marks), tuple(each)) if each else None
    swept = sweep(truths, pool, (closed, marks), chosen, own, met, question.progress)
    return asked.answer(
        torch.maximum(swept.best, known.max(1).values),
        known[:, best_at],
        swept.batch,
        kind="pool",
        size=size,
        measured=len(all_rows),
        best=best,
        best_at=int(rows[best_at]),
        found=tuple(
            _found(swept, marks, number, part if part < 1 else None)
            for number, part in zip(numbers, top, strict=True)
        ),
        noise_std=noise_std,
        step=step,
        judged=recalibration.judged,
        correction=tuple(recalibration.mean.tolist()),
        names=("molecule", "library") if hasattr(pool.table, "smiles") else ("candidate", "pool"),
    )


def _known(
    pool: Pool, measured: Any, values: Tensor, asked: _Asked
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Distinct measured rows (k,) ascending, of twins the first, and which of them met the conditions, in half of their
    measurements or more; the mean values and counts of those that did, and the noise of one measurement."""
    given = as_indices(measured, None, what="measured")
    if len(given) != len(values):
        raise ShapeError(f"one value per measured row: got {len(given)} rows and {len(values)} values.")
    if len(given) and int(given.min()) < -1:
        raise InputError(
            f"measured holds row {int(given.min())}; -1 stands for a candidate outside the pool."
        )
    as_indices(given.clamp_min(0), len(pool), what="measured")
    inside = given >= 0
    if not bool(inside.any()):
        raise InputError(
            "nothing of the pool has been measured yet: there is no outlook without a measurement."
        )
    first = pool.find(pool.keys(given[inside]))
    rows, member, counts = first.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, member, values[inside].double())
    means = torch.where(counts == 1, sums, sums / counts)
    met = torch.zeros(len(rows)).index_add_(0, member, asked.met[inside].float()) >= 0.5 * counts
    _check_met(met)
    noise_std = asked.noise_std
    if noise_std is None:
        extra = int((counts - 1).sum())
        scatter = float((values[inside] - means[member]).square().sum())
        noise_std = math.sqrt(scatter / extra) if extra else 0.0
    return rows, met, means[met], counts[met], noise_std


def _met(given: Any, count: int) -> Tensor:  # -> (n,) bool
    if given is None:
        return torch.ones(count, dtype=torch.bool)
    met = torch.as_tensor(given) if not isinstance(given, str) else torch.empty(0)
    if met.dtype != torch.bool or met.shape != (count,):
        raise ShapeError(f"met must hold true or false for each of the {count} measurements, got {given!r}.")
    return met.cpu()


def _check_met(met: Tensor) -> None:
    if not bool(met.any()):
        raise InputError(
            "nothing that was measured meets every constraint yet: there is no best found to ask about."
        )


def _known_truths(
    truths: Truths,
    features: Tensor,
    values: Tensor,
    counts: Tensor,
    noise_std: float,
    generator: torch.Generator,
) -> Tensor:
    """(s, k) true values of measured rows: the measured ones, or what the paths and they say together.

    With noise, a row's own part given its path and its mean value is normal (a conjugate update).
    """
    s = truths.model.posterior.num_samples
    if noise_std == 0:
        return truths.rounded(values).expand(s, -1)
    paths = truths.in_units(truths.paths(features))
    own, error = (truths.model.scale * truths.own_std) ** 2, noise_std**2 / counts
    weight = own / (own + error)
    drawn = torch.randn(paths.shape, generator=generator, dtype=torch.float64)
    return paths + weight * (values - paths) + (weight * error).sqrt() * drawn


def _found(swept: Swept, marks: Tensor, number: int, share: float | None) -> Found:
    """Known values (s, m) that are among the best, equal ones sharing the last places."""
    last = torch.searchsorted(marks, marks, right=True)
    above = swept.above + (marks.shape[1] - last)
    level = swept.level + last - torch.searchsorted(marks, marks)
    shares = ((number - above).double() / level).clamp(0.0, 1.0)
    each = shares.sum(1).round(decimals=6)  # those of ties add up to a whole
    low, high = interval(each)
    inside = float(((each >= low) & (each <= high)).double().mean())
    return Found(number, share, Figure.mean(each), low, high, inside)


def _over_box(asked: _Asked, space: Any, measured: Any, values: Tensor) -> Outlook:
    model, sign = asked.model, asked.sign
    points = _points(measured, space, "measured")
    if len(points) != len(values):
        raise ShapeError(f"one value per measured point: got {len(points)} points and {len(values)} values.")
    _check_met(asked.met)
    truths, conditions = Truths.of_model(model, sign), asked.question.conditions
    known = truths.in_units(truths.paths(points[asked.met]))
    paths: Paths = model.posterior.samples
    larger = sign > 0
    if conditions:
        paths, larger = conditioned_paths(model, sign, conditions), True
    searches = [
        truths.in_units(
            (1.0 if larger else -1.0) * space.maximise(paths, model.posterior, look)[1].detach().double()
        )
        for look in (
            Look(larger, stream, replace(asked.question.search or BoxSearch(), repeats=True))
            for stream in streams(asked.generator, "first search", "second search")
        )
    ]
    first, second = (found.cpu() for found in searches)
    best_at = int(known.mean(0).argmax())
    chosen = _points(asked.question.batch, space, "batch")
    with torch.no_grad():
        batch = paths(chosen).cpu().double() if conditions else truths.paths(chosen)
    return asked.answer(
        torch.maximum(torch.maximum(first, second), known.max(1).values),
        known[:, best_at],
        truths.in_units(batch),
        kind="box",
        size=None,
        measured=len(points),
        best=float(sign * known[:, best_at].mean()),
        best_at=int(asked.met.nonzero()[best_at]),
        found=(),
        noise_std=model.noise_std if asked.noise_std is None else asked.noise_std,
        step=0.0,
        search_error=float((first - second).abs().mean()),
        names=("point", "box"),
    )


def _points(given: Any, space: Any, name: str) -> Tensor:
    """(n, D) points of a box in the model's coordinates, of which a category has several; none for None."""
    width = space.dimension
    if given is None:
        return torch.empty(0, width, dtype=torch.float64)
    points = as_numbers(given, name, f"(n, {width}) points, in the coordinates of the model").cpu()
    if points.ndim != 2 or points.shape[1] != width:
        raise ShapeError(f"{name} must be (n, {width}) points; got shape {tuple(points.shape)}.")
    return points


def _epsilons(epsilon: Any, values: Tensor) -> tuple[float, ...]:
    if epsilon is None:
        spread = _NEAR * float(values.double().std(correction=0))
        return (0.0, float(f"{spread:.1g}")) if spread > 0 else (0.0,)
    listed = tuple(
        finite_number(one, "epsilon") for one in (epsilon if isinstance(epsilon, Sequence) else [epsilon])
    )
    if not listed or min(listed) < 0:
        raise InputError(f"epsilon must hold distances of at least 0, in the values' units; got {epsilon}.")
    return listed


def _tops(top: Any) -> tuple[float, ...]:
    listed = tuple(finite_number(one, "top") for one in (top if isinstance(top, Sequence) else [top]))
    if not listed or any(one <= 0 or (one >= 1 and one != int(one)) for one in listed):
        raise InputError(f"top must hold shares between 0 and 1, or whole numbers; got {top}.")
    return listed


def _number_of(part: float, size: int) -> int:
    """How many rows a share or a number of them is."""
    return min(math.ceil(part * size - 1e-9) if part < 1 else whole_number(int(part), "top"), size)


def _step(values: Tensor) -> float:
    """The largest power of ten of which all values are multiples, 0 where it is below a thousandth of their spread."""
    spread = float(values.std(correction=0))
    if len(values) < _STEP_ROWS or spread == 0:
        return 0.0
    exponent = math.floor(math.log10(spread)) + 1
    for power in range(exponent, exponent - 5, -1):
        step = 10.0**power
        multiples = values / step
        if step < spread / 1000:
            return 0.0
        if bool(((multiples - multiples.round()).abs() < 1e-6).all()):
            return step
    return 0.0

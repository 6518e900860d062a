"""What the parts of a fit cost: operations counted, and divided by what a device does of them in a second.

Unless said otherwise seconds are those of all devices of `Device.count` together working side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sggp.defaults import DIRECT_ROWS, MEMORY_BUDGET, NUM_FEATURES
from sggp.evidence.judging import densities
from sggp.hyperparameters.auto import EXACT_ROWS
from sggp.planning.devices import Device
from sggp.planning.far import FarWork, far_work
from sggp.planning.preconditioning import balanced_for

__all__ = ["Job", "Part", "communication", "entry_seconds", "far_of", "product_seconds"]

_SYMMETRIC = 0.65
"""Evaluations that a product with a symmetric matrix makes, measured: half of the entries, and the tiles' turning."""
_BATCH = 512
_STEPS, _STEPS_ONE = 580.0, 240.0
"""Steps of learning, typical, with a choice of kernels (at most 690, or 1,340) and of a kernel that is named."""
_OVERHEAD = 3.8e-3
"""Seconds of a step that no arithmetic takes: autograd, the optimiser, Python."""
_SEARCH = 0.18
"""The share of the float32 rate that a search for neighbours among all pairs reaches."""
_EVALUATED = 16_384
"""Rows whose likelihood is evaluated at the end of a fit at most; there are five fits where a kernel is chosen."""
_JUDGED_ROWS, _JUDGED_KERNELS, _JUDGING = 2000, 3.0, 48.0
"""Rows that kernels are judged by at most, kernels that are, and what one row costs one of them, in small systems."""
_NOISE, _NOISE_FEW = 1.9e6, 1.25e6
"""Outliers and the choice of a noise model in small systems, beyond and up to the rows that are factored."""
_FACTOR = 0.6
"""The share of the float64 rate that a factor reaches."""
_COSINE = 500.0
"""Flops in the time of a float64 cosine."""
_FIRST, _FIRST_FAR, _CONTROL = 13.0, 2.5, 80.0
"""Small systems in the time of the first prediction, a training row, without and with a far field,
and of an exact variance given nearest rows."""
_FAR_BYTES = 1.5e8
"""Bytes of couplings and lists, and of what trees are looked at with."""
_FAR_COLUMN, _FAR_ROW = 6800.0, 58_000.0
"""Flops in the time of what a far field does for a row, for each column and beside them."""
_COUPLED = 0.5
"""The share of the float32 rate that couplings reach."""
_MANY_COLUMNS = 8
"""From so many on couplings are made narrow."""
_FLOAT = 4
_SIDES, _STATE = 20.0, 36.0
"""Bytes of a row and column of a solve: right-hand sides and iterate in float64, remainder; and what it works with.

Columns whose states take more than a quarter of the memory budget are worked on in groups.
"""


@dataclass(frozen=True)
class Job:
    """What is to be fitted.

    Attributes:
        rows: n, distinct. columns: d. samples: posterior functions. kernel: "auto" where one is chosen, or a name.
        passes: steps of the solve; None takes what is typical. predictions: rows that are predicted.
    """

    rows: int
    columns: int
    samples: int
    kernel: str = "auto"
    passes: float | None = None
    predictions: int = 1000

    @property
    def sides(self) -> int:
        """Right-hand sides of the solve: the mean and the samples."""
        return 1 + self.samples


@dataclass(frozen=True)
class Part:
    """One phase of a plan: `seconds`, of which `waiting` for other devices, and what they are spent on."""

    phase: str
    seconds: float
    what: str
    waiting: float = 0.0


def entry_seconds(device: Device, d: int) -> float:
    """Seconds of one device for one kernel entry of d coordinates: see `sggp.native.ceilings`."""
    return (1.0 / device.evaluation + 2.0 * max(d - 1, 0) / device.flops) / min(1.0, device.reached / 0.93)


def communication(device: Device, n: int, s: int) -> float:
    """Seconds to gather a float32 (n, s) block of which every device has its share of the rows."""
    return _FLOAT * n * s * (device.count - 1) / device.count / device.link


def far_of(device: Device, n: int, d: int, kernel: str = "auto") -> FarWork | None:
    """What a product takes by the far field that there would be; None where there is none, as on every GPU."""
    return far_work(n, d, kernel) if device.kind == "cpu" else None


def product_seconds(device: Device, n: int, d: int, s: int, kernel: str = "auto") -> float:
    """Seconds of one product K(x, x) V with s columns: rows shared among the devices, V gathered before.

    The one place where products are counted: n² entries and 2·n²·s flops; by a far field near entries, 2·s flops for a
    coefficient, and what each row takes. A far field is not shared: every device makes the whole product.
    """
    far = far_of(device, n, d, kernel)
    if far is not None:
        near = far.near * (entry_seconds(device, d) + 2.0 * s / (device.reached * device.flops))
        coupled = far.narrow if s >= _MANY_COLUMNS else far.coefficients
        return near + (2.0 * s * coupled / _COUPLED + n * (_FAR_ROW + _FAR_COLUMN * s)) / device.flops
    share = _SYMMETRIC if device.count == 1 else 1.0  # rows of one device meet those of others once
    entry = share * entry_seconds(device, d) + 2.0 * s / (device.reached * device.flops)
    return n * n * entry / device.count + communication(device, n, s)


def parts_of(job: Job, device: Device, *, direct: bool) -> tuple[list[Part], float]:
    """The phases of a fit, by a factor or by iterations, and the bytes that it takes on each device at most."""
    if direct:
        solve, memory = _direct(job, device), 3.0 * 8.0 * job.rows**2
        return [_learning(job, device), solve, _predictions(job, device)], memory
    parts, memory = _iterative(job, device)
    return [_learning(job, device), *parts, _predictions(job, device)], memory


def _learning(job: Job, device: Device) -> Part:
    """Hyperparameters, the choice of a kernel and of a noise model; on one device, whatever `count` is."""
    n, d, chosen = job.rows, job.columns, job.kernel == "auto"
    noise = _NOISE if n > DIRECT_ROWS else _NOISE_FEW * (n / DIRECT_ROWS)
    if n <= EXACT_ROWS:
        steps = 40.0 if chosen else 20.0
        seconds = steps * (3.0 * n**3 / (_FACTOR * device.flops64) + _OVERHEAD) + noise / device.systems
        return Part("hyperparameters", seconds, f"{steps:.0f} values of the exact likelihood, and noise")
    steps = _STEPS if chosen else _STEPS_ONE
    system = (1.0 + 0.02 * max(d - 3, 0)) / device.systems
    search = n * d / (_SEARCH * device.flops)
    aside = _judging(n, device) if chosen else 0.0
    evaluated = min(n, _EVALUATED) * (5.0 if chosen else 1.0)
    seconds = steps * (_OVERHEAD + _BATCH * (system + search)) + aside + (evaluated + noise) / device.systems
    what = f"{steps:.0f} steps of {_BATCH} rows, noise{' and kernel' if chosen else ''} by rows set aside"
    return Part("hyperparameters", seconds, what)


def _judging(n: int, device: Device) -> float:
    """Seconds to judge kernels on rows set aside: exactly from few of the others, by nearest rows from more."""
    judged = min(n // 4, _JUDGED_ROWS)
    given = densities(n - judged)
    exact = sum(m**3 / 3 + judged * m * m for m in given if m <= DIRECT_ROWS) / (_FACTOR * device.flops64)
    nearest = _JUDGING * judged / device.systems if given[0] > DIRECT_ROWS else 0.0
    return _JUDGED_KERNELS * (exact + nearest)


def _direct(job: Job, device: Device) -> Part:
    n = job.rows
    seconds = (n**3 / 3 + 4.0 * n * n * job.sides) / (_FACTOR * device.flops64) + _prior(job, device)
    return Part("solve", seconds, f"a Cholesky factor of {n:,} rows in float64")


def _iterative(job: Job, device: Device) -> tuple[list[Part], float]:
    """Set-up of the preconditioner, and the solve."""
    n, s, k = job.rows, job.sides, device.count
    far = far_of(device, n, job.columns, job.kernel)
    chosen = balanced_for(n, job.columns, s, far)
    passes = chosen.iterations if job.passes is None else job.passes
    unit = (
        44.0 / (device.reached * device.flops) / k
    )  # what `Balanced` counts in: 22 columns double a product
    setup = n * chosen.setup * unit
    seconds = (passes + 1) * product_seconds(device, n, job.columns, s, job.kernel)
    seconds += passes * n * chosen.application * unit + _prior(job, device) / k
    waiting = 0.0 if far else (passes + 1) * communication(device, n, s)
    solve = Part("solve", seconds, f"{passes:.0f} passes of {s} columns and one to measure", waiting)
    gathered = _FLOAT * n * s if k > 1 else 0.0
    states = min(n * s * _STATE, max(n * _STATE, MEMORY_BUDGET / 4))
    memory = (n * s * _SIDES + states + chosen.memory) / k + gathered + 24.0 * n * job.columns
    if far:
        memory += _FAR_BYTES + 16.0 * n * job.columns
        solve = replace(solve, what=f"{solve.what}, by a far field")
    return [Part("preconditioner", setup, chosen.what), solve], memory


def _prior(job: Job, device: Device, rows: int | None = None) -> float:
    """Prior functions at the training rows, or at so many others."""
    flops = NUM_FEATURES * (2.0 * job.samples + _COSINE) if job.samples else 0.0
    return (job.rows if rows is None else rows) * flops / device.flops64


def _predictions(job: Job, device: Device) -> Part:
    """Mean, samples and standard deviations of some rows."""
    q, n = job.predictions, job.rows
    entry = entry_seconds(device, job.columns) + 2.0 * job.sides / (device.reached * device.flops)
    seconds = 2.0 * q * n * entry / device.count + _prior(job, device, 2 * q)
    if q:
        first = _FIRST_FAR if far_of(device, n, job.columns, job.kernel) else _FIRST
        seconds += (first * n + _CONTROL * q) / device.systems
    return Part("predictions", seconds, f"{q:,} rows: mean, standard deviation and {job.samples} functions")

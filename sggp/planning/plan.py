"""What a fit will take before it is begun: seconds by phase, memory, and the solver that `Auto` takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sggp.checks import finite_number, one_of, whole_number
from sggp.defaults import DIRECT_ROWS, MEMORY_BUDGET, NUM_SAMPLES
from sggp.errors import InputError
from sggp.operators.base import Operator
from sggp.planning.costs import Job, Part, parts_of
from sggp.planning.devices import Device, device_named
from sggp.running.lines import shown_seconds
from sggp.solvers import Cholesky
from sggp.solvers.auto import choose

__all__ = ["Plan", "plan_fit"]

_KERNELS = ("auto", "matern12", "matern32", "matern52", "rbf")


@dataclass(frozen=True)
class Plan:
    """A forecast of `GPRegressor.fit` and predictions; printed it is a table.

    Attributes:
        job: what is fitted. device: on what.
        parts: the phases, with their seconds. memory: bytes on each device, beside Python and its libraries.
        solver: what solves.
    """

    job: Job
    device: Device
    parts: tuple[Part, ...]
    memory: float
    solver: str

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(part.seconds for part in self.parts)

    @property
    def fits(self) -> bool:
        """Whether the memory of a device holds it."""
        return self.memory <= self.device.memory

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: a memory that nobody knows is None."""
        device = asdict(self.device) | {
            "memory": self.device.memory if self.device.memory < math.inf else None
        }
        return {
            "job": asdict(self.job),
            "device": device,
            "parts": [asdict(part) for part in self.parts],
            "seconds": self.seconds,
            "memory": self.memory,
            "fits": self.fits,
            "solver": self.solver,
        }

    def __str__(self) -> str:
        job, device = self.job, self.device
        many = f":{device.count}" if device.count > 1 else ""
        lines = [
            f"{job.rows:,} rows x {job.columns}, {job.samples} samples, on {device.name}{many} ({device.source})"
        ]
        for part in self.parts:
            wait = f"; {shown_seconds(part.waiting)} of it communication" if part.waiting else ""
            lines.append(f"  {part.phase:<16} {shown_seconds(part.seconds):>12}  {part.what}{wait}")
        lines.append(f"  {'in all':<16} {shown_seconds(self.seconds):>12}")
        room = "" if self.fits else f", more than the {device.memory / 2**30:.0f} GiB there are"
        lines.append(f"  {'memory':<16} {self.memory / 2**30:>8.2f} GiB  on each device{room}")
        lines.append(f"  {'solver':<16} {self.solver}")
        return "\n".join(lines)


def plan_fit(
    n: float,
    d: int,
    *,
    samples: int = NUM_SAMPLES,
    device: str | Device = "here",
    kernel: str = "auto",
    passes: float | None = None,
    predictions: int = 1000,
) -> Plan:
    """Forecast a fit of n rows and d columns with its posterior functions.

    Operations are counted and divided by what the device does of them in a second. What no table is needed for is
    certain: entries, flops, bytes. What only the data decide is taken as typical, and is what a forecast is wrong by:
    steps of learning, the preconditioner's size, and passes of the solve. Pass `passes` where they are known.

    Args:
        n: distinct rows. d: columns. samples: posterior functions. predictions: rows predicted.
        device: "here" (measured, a second or two), a name of `sggp.planning.NAMED`, several as in "h200:4", or a
            `Device`. kernel: "auto" as kernel=None, or a name. passes: steps of the solve.

    Raises:
        InputError: an argument that cannot be used.

    Example:
        >>> from sggp.planning import plan_fit
        >>> plan = plan_fit(1e6, 10, device="h200:4")
        >>> ", ".join(part.phase for part in plan.parts)
        'hyperparameters, preconditioner, solve, predictions'
    """
    given = finite_number(n, "n")
    rows = whole_number(int(given) if given.is_integer() else given, "n")
    if passes is not None:
        passes = finite_number(passes, "passes")
        if passes <= 0:
            raise InputError(f"passes must be positive, got {passes:g}; None takes what is typical.")
    job = Job(
        rows,
        whole_number(d, "d"),
        whole_number(samples, "samples", least=0),
        one_of(kernel, "kernel", _KERNELS),
        passes,
        whole_number(predictions, "predictions", least=0),
    )
    found = device_named(device) if isinstance(device, str) else device
    if not isinstance(found, Device):
        raise InputError(f'device must be a name such as "h200:4" or a Device, got {device!r}.')
    # as `condition` has it, and beyond by the rule of `Auto`
    solvers = (Cholesky(),) if rows <= DIRECT_ROWS else choose(_Sketch(job, found), job.sides)
    parts, memory = parts_of(job, found, direct=isinstance(solvers[0], Cholesky))
    return Plan(job, found, tuple(parts), memory, ", else ".join(solver.describe() for solver in solvers))


class _Sketch(Operator):
    """K + Σ of so many rows as far as the choice of a solver looks at it: its sizes, and what it offers."""

    entries_evaluated = 0
    dtype = torch.float32

    def __init__(self, job: Job, device: Device) -> None:
        self.shape, self.memory_budget = (job.rows, job.rows), MEMORY_BUDGET
        self.device = torch.device(device.kind)
        self.noise_variance = torch.full((1,), 0.1, dtype=torch.float64)
        self.dense = self.matmul_wide = self.matmul

    def matmul(self, v: Any) -> Any:
        raise NotImplementedError("a sketch multiplies nothing.")

    diagonal = rows_matmul = columns_matmul = block = small_blocks = cross_block = matmul
    ordering = earlier_neighbours = matmul

    def kernel_diagonal(self) -> torch.Tensor:
        return torch.ones(1, dtype=torch.float64)

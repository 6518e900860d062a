"""HiGP beside us: its AFN preconditioner in our conjugate gradients, and its fit of a table.

`pip install higp` (Apache 2.0; wheels for Linux on x86-64 only, Python 3.8 to 3.12 at version 2025.11.3). Its kernels
are RBF, Matérn-3/2 and Matérn-5/2 with one length scale for all inputs and one noise variance for all rows.

Sources: Huang, Xu, Xi & Chow 2025 (arXiv 2503.02259), HiGP; Zhao, Xu, Huang, Chow & Xi 2024 (arXiv 2304.05460), AFN.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import gpytorch
import numpy as np
import torch
from torch import Tensor

from lib.fitters import Scores, Task, measured
from lib.systems import System
from sggp.preconditioners import Preconditioner

__all__ = ["AFN", "NOT_INSTALLED", "afn_preconditioners", "higp_run", "installed"]

NOT_INSTALLED = "higp is not installed"
MATERN32 = 2  # HiGP's number of the kernel
RANK, STEPS, STEP_SIZE = 50, 100, 0.1  # as in its documentation


def installed() -> bool:
    return importlib.util.find_spec("higp") is not None


@functools.cache
def _higp() -> Any:
    """The package; what its compiled code prints goes to stderr from now on, not into the tables."""
    import higp

    sys.stdout.flush()
    sys.stdout = open(os.dup(1), "w", buffering=1, encoding="utf-8")  # noqa: SIM115 - as long as the process
    os.dup2(2, 1)
    return higp


def _columns(rows: np.ndarray) -> np.ndarray:  # (n, d) -> (d, n)
    return np.ascontiguousarray(rows.T, dtype=np.float32)


# --- preconditioner ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Built:
    """HiGP's preconditioner as ours are asked for; it does not give its determinant."""

    given: Any
    log_det: float = float("nan")

    def apply(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        found = self.given.matmul(_columns(v.detach().numpy()))
        return torch.as_tensor(found).reshape(v.shape[1], -1).T.to(v.dtype).contiguous()


@dataclass(frozen=True, eq=False)
class AFN(Preconditioner):
    """Adaptive factorised Nyström: low rank on points far apart, a sparse factor on nearest rows for what is left.

    Args:
        system: a Matérn-3/2 kernel; its length scales are divided out of the rows, and where the noise differs from row
            to row (merged repeats) the preconditioner takes the median.
        rank: columns. Above 50, `setup_afn` of version 2025.11.3 builds a Nyström factor of rank 51 without neighbours.
        neighbours: `lfil`, entries in a row of the sparse factor; 0, its default, is Nyström alone.
    """

    system: System = field(repr=False)
    rank: int
    neighbours: int

    def build(self, operator: Any, generator: torch.Generator) -> _Built:
        kernel = self.system.kernel
        rows = _columns((self.system.x / kernel.base_kernel.lengthscale).numpy())
        given = _higp().precond.setup_afn(
            data=rows,
            kernel_type=MATERN32,
            l=1.0,
            f=math.sqrt(float(kernel.outputscale)),
            s=float(self.system.noise_vector.median()),
            rank=self.rank,
            lfil=self.neighbours,
            seed=0,
        )
        return _Built(given)


def afn_preconditioners(system: System) -> list[AFN]:
    """HiGP's default, and more neighbours; none for a kernel that HiGP does not have."""
    base = getattr(system.kernel, "base_kernel", None)
    if not (isinstance(base, gpytorch.kernels.MaternKernel) and base.nu == 1.5):
        return []
    return [AFN(system, RANK, neighbours) for neighbours in (0, 40, 100)]


# --- fit --------------------------------------------------------------------------------------------------------


def higp_run(task: Task, cap_seconds: float, seed: int) -> Scores | str:
    """Adam (0.1) on HiGP's preconditioned estimate of the likelihood, 100 steps or until the cap; one length scale."""
    if not installed():
        return NOT_INSTALLED

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[Any, str]:
        rows, target = _columns(x), np.ascontiguousarray(y, dtype=np.float32)
        problem = _higp().gprproblem.setup(data=rows, label=target, kernel_type=MATERN32, seed=seed)
        model = _higp().GPRModel(problem)
        optimizer = torch.optim.Adam(model.parameters(), lr=STEP_SIZE)
        begin, steps = time.perf_counter(), 0
        while steps < STEPS and (steps == 0 or time.perf_counter() - begin < cap_seconds):
            model.calc_loss_grad()
            optimizer.step()
            steps += 1
        return (rows, target, model.get_params()), f"{steps} steps of Adam, one length scale"

    def predict(model: Any, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, target, parameters = model
        found = _higp().gpr_prediction(
            data_train=rows,
            label_train=target,
            data_prediction=_columns(xs),
            kernel_type=MATERN32,
            gp_params=parameters,
            niter=500,
            tol=1e-5,
            seed=seed,
        )
        mean, std = (
            np.asarray(a, dtype=np.float64) for a in (found.prediction_mean, found.prediction_stddev)
        )
        return mean, std**2  # the noise is in it

    return measured(task, fit, predict)

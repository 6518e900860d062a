"""The engines: what each one computes itself, and where one takes over from another."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.errors import MemoryBudgetError
from sggp.native import conditionals, cpu, cpu_tanimoto, library, neighbours, reference, thermometer, triton

__all__ = ["CPP", "TORCH", "TRITON", "Engine", "engine"]

_log = logging.getLogger(__name__)


def _none(*args: Any, **kwargs: Any) -> None:
    """No fused function: the caller computes the same from blocks of K."""


@dataclass(frozen=True)
class Engine:
    """Functions over tensors of one device and precision, with the signatures of the modules they are named after.

    Products, gradients and the search are there on every engine. The others are one fused call each, or give None:
    then the caller computes the same from blocks of K, which serves every kernel.

    Args:
        name: what logs and tables call it.
        recomputes: whether products that evaluate K as they multiply take about as long as products with a K that is
            stored, so that K need not be stored.
        stationary_block, stationary_matmul, stationary_gradient: see `sggp.native.reference`.
        tanimoto_block, tanimoto_matmul: see `sggp.native.thermometer`.
        small_tanimoto: see `sggp.native.cpu_tanimoto`; may give None.
        nearest: see `sggp.native.reference`.
        max_min_order, sparse_columns, residual_scores, sparse_square: see `sggp.native.neighbours`; may give None.
        log_conditionals: see `sggp.native.conditionals`; None where there is none.
    """

    name: str
    recomputes: bool
    stationary_block: Callable[..., Tensor]
    stationary_matmul: Callable[..., Tensor]
    stationary_gradient: Callable[..., tuple[Tensor, Tensor]]
    tanimoto_block: Callable[..., Tensor]
    tanimoto_matmul: Callable[..., Tensor]
    nearest: Callable[..., Tensor]
    small_tanimoto: Callable[..., Tensor | None] = _none
    max_min_order: Callable[..., Tensor | None] = _none
    sparse_columns: Callable[..., Tensor | None] = _none
    residual_scores: Callable[..., Tensor | None] = _none
    sparse_square: Callable[..., Tensor | None] = _none
    log_conditionals: Callable[..., conditionals.Terms] | None = None


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)


def _within(
    name: str, product: Callable[..., Tensor], smaller: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """The product, or `smaller` where the budget is below one of its tiles, which the log is told once.

    Tiles of a compiled engine are fixed by the registers and there is one per thread; those of the reference shrink.
    """

    @functools.wraps(product)
    def bounded(*args: Any, **kwargs: Any) -> Tensor:
        try:
            return product(*args, **kwargs)
        except MemoryBudgetError as error:
            _say_once(f"products run in torch, which is slower, where the {name} engine says: {error}")
            return smaller(*args, **kwargs)

    return bounded


TORCH = Engine(
    "torch",
    recomputes=False,
    stationary_block=reference.stationary_block,
    stationary_matmul=reference.stationary_matmul,
    stationary_gradient=reference.stationary_gradient,
    tanimoto_block=thermometer.tanimoto_block,
    tanimoto_matmul=thermometer.tanimoto_matmul,
    nearest=reference.nearest,
)
CPP = replace(
    TORCH,
    name="C++",
    recomputes=True,
    stationary_block=cpu.stationary_block,
    stationary_matmul=_within("C++", cpu.stationary_matmul, reference.stationary_matmul),
    stationary_gradient=cpu.stationary_gradient,
    tanimoto_block=cpu.tanimoto_block,
    tanimoto_matmul=_within("C++", cpu.tanimoto_matmul, thermometer.tanimoto_matmul),
    nearest=neighbours.nearest,
    small_tanimoto=cpu_tanimoto.small_tanimoto,
    max_min_order=neighbours.max_min_order,
    sparse_columns=neighbours.sparse_columns,
    residual_scores=neighbours.residual_scores,
    sparse_square=neighbours.sparse_square,
    log_conditionals=conditionals.log_conditionals,
)
TRITON = replace(
    TORCH,
    name="Triton",
    stationary_block=triton.stationary_block,
    stationary_matmul=_within("Triton", triton.stationary_matmul, reference.stationary_matmul),
    stationary_gradient=triton.stationary_gradient,
    tanimoto_block=triton.tanimoto_block,
    tanimoto_matmul=_within("Triton", triton.tanimoto_matmul, thermometer.tanimoto_matmul),
)


def engine(device: torch.device | str, dtype: torch.dtype) -> Engine:
    """The engine for tensors on `device` in `dtype`; torch alone where there is no other, which the log says once.

    The Triton engine has not run on a GPU yet, so it is taken only where the environment says SGGP_TRITON=1.

    Args:
        device: where the points live.
        dtype: the precision of the entries.
    """
    kind = torch.device(device).type
    if dtype not in library.SUFFIX:
        return TORCH
    if kind == "cpu" and library.available():  # which logs what is missing
        return CPP
    if kind == "cuda":
        if os.environ.get("SGGP_TRITON") != "1":
            _say_once(
                "kernels on CUDA run in torch; the Triton engine is opt-in: set SGGP_TRITON=1 to try it."
            )
        elif triton.available():
            return TRITON
        else:
            _say_once(f"kernels on CUDA run in torch: {triton.unavailable_reason()}.")
    return TORCH

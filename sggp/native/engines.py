"""The engines: what each one computes itself, and where one takes over from another."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.errors import MemoryBudgetError
from sggp.native import conditionals, cpu, cpu_tanimoto, library, local, neighbours, reference, triton

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
        small_stationary, local_posteriors: see `sggp.native.local`; may give None.
        nearest: see `sggp.native.reference`.
        max_min_order, sparse_columns, residual_scores, sparse_square: see `sggp.native.neighbours`; may give None.
        log_conditionals: see `sggp.native.conditionals`; None where there is none.
    """

    name: str
    stationary_block: Callable[..., Tensor]
    stationary_matmul: Callable[..., Tensor]
    stationary_gradient: Callable[..., tuple[Tensor, Tensor]]
    tanimoto_block: Callable[..., Tensor]
    tanimoto_matmul: Callable[..., Tensor]
    recomputes: bool = False
    nearest: Callable[..., Tensor] = reference.nearest
    small_tanimoto: Callable[..., Tensor | None] = _none
    small_stationary: Callable[..., Tensor | None] = _none
    local_posteriors: Callable[..., tuple[Tensor, Tensor] | None] = _none
    max_min_order: Callable[..., Tensor | None] = _none
    sparse_columns: Callable[..., Tensor | None] = _none
    residual_scores: Callable[..., Tensor | None] = _none
    sparse_square: Callable[..., Tensor | None] = _none
    log_conditionals: Callable[..., conditionals.Terms] | None = None


_said: set[str] = set()


def _say_once(about: str, message: str) -> None:
    """Tell the log, the first time that something comes up in this process."""
    if about not in _said:
        _said.add(about)
        _log.warning(message)


def _made_of(name: str, module: Any, **more: Any) -> Engine:
    """The engine with the products of a module, which torch takes over where a budget is below one of its tiles.

    Tiles of a compiled engine are fixed by the registers and there is one per thread; those of torch shrink. The log is
    told once.
    """

    def bounded(product: str) -> Callable[..., Tensor]:
        own, smaller = getattr(module, product), getattr(reference, product)
        if own is smaller:
            return own

        @functools.wraps(own)
        def either(*args: Any, **kwargs: Any) -> Tensor:
            try:
                return own(*args, **kwargs)
            except MemoryBudgetError as error:
                _say_once(
                    name, f"products run in torch, which is slower, where the {name} engine says: {error}"
                )
                return smaller(*args, **kwargs)

        return either

    return Engine(
        name,
        stationary_block=module.stationary_block,
        stationary_matmul=bounded("stationary_matmul"),
        stationary_gradient=module.stationary_gradient,
        tanimoto_block=module.tanimoto_block,
        tanimoto_matmul=bounded("tanimoto_matmul"),
        **more,
    )


TORCH = _made_of("torch", reference)
TRITON = _made_of("Triton", triton)
CPP = _made_of(
    "C++",
    cpu,
    recomputes=True,
    nearest=neighbours.nearest,
    small_tanimoto=cpu_tanimoto.small_tanimoto,
    small_stationary=local.small_stationary,
    local_posteriors=local.local_posteriors,
    max_min_order=neighbours.max_min_order,
    sparse_columns=neighbours.sparse_columns,
    residual_scores=neighbours.residual_scores,
    sparse_square=neighbours.sparse_square,
    log_conditionals=conditionals.log_conditionals,
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
            _say_once("opt-in", "kernels on CUDA run in torch; to try the Triton engine, set SGGP_TRITON=1.")
        elif triton.available():
            return TRITON
        else:
            _say_once("missing", f"kernels on CUDA run in torch: {triton.unavailable_reason()}.")
    return TORCH

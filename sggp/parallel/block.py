"""`with sggp.distributed():` the ranks of a torchrun, or the devices named, share the work inside."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from sggp.checks import finite_number
from sggp.errors import InputError
from sggp.parallel.devices import Devices
from sggp.parallel.ranks import Ranks
from sggp.parallel.roll_call import RollCall
from sggp.parallel.workers import Workers, current, entered

__all__ = ["distributed"]

_log = logging.getLogger(__name__)
_blocks = itertools.count()
_LONGEST = 365 * 86_400.0
_LAUNCHED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""What torchrun, or whoever starts ranks, leaves in the environment of each."""


@contextmanager
def distributed(
    devices: Sequence[str | torch.device] | None = None, *, timeout: float = 1800.0
) -> Iterator[Workers]:
    """Share products with kernel matrices among the ranks of a `torchrun`, or the devices of this host.

    Inside the block every operator that is made, and every prediction, gradient and fit, spreads its products over the
    workers; the code is that for one process. Ranks run the same program on the same data (SPMD): each reads all
    inputs, computes its rows of every product, and has all results. What only one is to do (files, plots) comes after
    the block, or inside it under `if workers.first:` where it makes no product.

    Args:
        devices: None for the ranks of a torchrun, or of a process group that exists already (one process on its own
            where there is neither); or devices of this host, ["cuda:0", "cuda:1"], one thread each, for notebooks.
        timeout: seconds that a rank waits for the others before it takes them for lost. Ignored with `devices` and for
            a process group that exists already.

    Yields:
        The workers: `size`, `rank`, `first`, and `map(function, items)` for work of your own.

    Raises:
        RankLost: a rank died or did not answer; which one, as far as is known.
        RanksDiverged: the ranks hold different data, seeds or settings.
        InputError: inside another such block, devices that are not there, or a timeout that is not positive.

    Cost:
        Of one product with n × s numbers on R ranks: n²/R kernel entries each, and an all-gather in which each receives
        n·s·(R − 1)/R numbers. See `docs/distributed.md`.

    Example:
        >>> import numpy as np, sggp
        >>> X = np.linspace(0, 1, 60)[:, None]
        >>> with sggp.distributed(["cpu", "cpu"]) as workers:
        ...     model = sggp.GPRegressor(random_state=0).fit(X, np.sin(6 * X[:, 0]))
        >>> workers.size
        2
    """
    if current().size > 1:
        raise InputError("this is inside another `with sggp.distributed()` already: one is enough.")
    seconds = finite_number(timeout, "timeout", "give seconds")
    if not 0 < seconds <= _LONGEST:
        raise InputError(f"timeout must be a positive number of seconds, at most a year, got {timeout!r}.")
    if devices is not None:
        with entered(Devices(devices)) as workers:
            yield workers
    elif dist.is_available() and (dist.is_initialized() or os.environ.keys() >= _LAUNCHED):
        yield from _of_ranks(seconds)
    else:
        _log.info("no torchrun and no devices: one process on its own.")
        with entered(Workers()) as workers:
            yield workers


def _of_ranks(timeout: float) -> Iterator[Workers]:
    """The ranks of the process group, which is made and ended here unless there is one."""
    makes = not dist.is_initialized()
    if makes:
        _join(timeout)
    try:
        get_store: Any = dist.distributed_c10d._get_default_store
        roll = RollCall(get_store(), f"sggp/{next(_blocks)}", dist.get_rank(), dist.get_world_size())
        workers = Ranks(dist.group.WORLD, roll)
        try:
            with entered(workers):
                yield workers
                workers.leave()
        except BaseException as error:
            workers.close(error)
            raise
        workers.close(None)
    finally:
        if makes:
            dist.destroy_process_group()


def _join(timeout: float) -> None:
    """Join the group that the launcher's environment describes: gloo for the CPU, NCCL for GPUs if there are any."""
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    on_gpu = torch.cuda.is_available() and dist.is_nccl_available() and local < torch.cuda.device_count()
    if on_gpu:
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))

"""The C++ engine among threads, after a fork, and over many calls."""

from __future__ import annotations

import os
import pathlib
import threading

import pytest
import torch

from sggp.native import cpu
from tests.native.test_cpu import cloud, needs_library, profile_of


@needs_library
def test_several_python_threads_at_once() -> None:
    a, b = cloud(150, 6, 1.0, torch.float32, 0), cloud(1500, 6, 1.0, torch.float32, 1)
    v = torch.randn(1500, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.randint(0, 4, (60, 128), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    profile = profile_of("matern32")
    expected = cpu.stationary_matmul(a, b, v, profile), cpu.tanimoto_block(counts, counts)
    failures: list[str] = []

    def work() -> None:
        for _ in range(20):
            found = cpu.stationary_matmul(a, b, v, profile), cpu.tanimoto_block(counts, counts)
            if not all(torch.equal(x, y) for x, y in zip(found, expected, strict=True)):
                failures.append("differs")

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_too() -> None:
    a = cloud(400, 4, 1.0, torch.float32, 0)
    profile = profile_of("matern52")
    expected = cpu.stationary_block(a, a, profile)
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = torch.equal(cpu.stationary_block(a, a, profile), expected)
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def resident_bytes() -> int:
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc on this system")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def many_calls(count: int) -> None:
    a, b, v = (cloud(n, 5, 1.0, torch.float32, n) for n in (20, 300, 300))
    counts = torch.randint(0, 3, (20, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    dense = torch.full((20, 64), 3, dtype=torch.uint8)
    profile = profile_of("rbf")
    for _ in range(count):
        cpu.stationary_block(a, b, profile)
        cpu.stationary_matmul(a, b, v, profile)
        cpu.stationary_gradient(a, b, a, b, profile)
        cpu.tanimoto_block(counts, dense)
        cpu.bit_similarity(cpu.pack_bits(counts), cpu.pack_bits(dense))


@needs_library
@pytest.mark.parametrize("calls", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_stays_flat_over_many_calls(calls: int) -> None:
    many_calls(200)
    before = resident_bytes()
    many_calls(calls)
    assert resident_bytes() - before < 4 * 2**20

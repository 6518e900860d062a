"""`sggp bench engines`: the ceilings of this machine, and what each engine makes of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import typer

from sggp.cli.console import print_table, stdout
from sggp.native import Engine, ceilings, cpu, triton
from sggp.native.engines import CPP, TORCH, TRITON
from sggp.native.families import Profile

SHAPES = ((3, 1), (26, 1), (26, 17), (26, 65), (90, 65))  # coordinates, columns
_BITS, _COUNTS = 2048, 1024
_PROFILE = Profile("matern32")
_FORMULA = (
    "d, s: Matérn-3/2 of d coordinates, times s columns; bits, counts: Tanimoto blocks of dense rows.\n"
    "bound: 1 / max(evaluation, product), evaluation = one coordinate from cache + 2 (d - 1) FLOP, product = 2 s FLOP; "
    "of fingerprints: popcounts from cache, then entries written to new memory."
)
_NAMES = {
    "matrix product": ("sgemm, 1536", 1e9, "GFLOP/s"),
    "tile product": ("sgemm of the engine, a tile in cache", 1e9, "GFLOP/s"),
    "exp": ("exp, float32, in cache", 1e9, "G/s"),
    "tile evaluation": ("Matérn-3/2 of one coordinate, a tile in cache", 1e9, "G entries/s"),
    "bit count": ("popcount of intersections, in cache", 1e9, "G words/s"),
    "memory": ("memory copy", 1e9, "GB/s"),
    "new memory": ("memory written for the first time", 1e9, "GB/s"),
}


def engines(
    rows: Annotated[int, typer.Option(min=16, help="Rows and columns of the kernel matrices.")] = 4096,
    repeats: Annotated[
        int, typer.Option(min=1, help="How often everything is timed; the median counts.")
    ] = 5,
) -> None:
    """Print this machine's ceilings, and each engine's rate and share of the bound that they set."""
    _report("cpu", f"{torch.get_num_threads()} threads, torch {torch.__version__}", rows, repeats)
    if torch.cuda.is_available():
        _report("cuda", torch.cuda.get_device_name(), 4 * rows, repeats)
    stdout().print(_FORMULA)
    if not cpu.available():
        stdout().print(f"no C++ engine: {cpu.unavailable_reason()}")


def _report(device: str, name: str, rows: int, repeats: int) -> None:
    works = ceilings.works(device=device, size=min(8.0, rows / 2048))
    products = _products(rows, device)
    calls: dict[str, Callable[[], object]] = {f"ceiling {key}": work.call for key, work in works.items()}
    calls.update({f"{own}: {what}": call for own, what, call, _ in products})
    seconds = ceilings.alternate(calls, repeats)
    rates = ceilings.rates(works, {key: seconds[f"ceiling {key}"] for key in works})
    print_table(f"Ceilings, float32: {name}", ["what", "rate", "unit"], ceiling_rows(rates))
    found = []
    for name, what, _, bound in products:
        rate = rows * rows / statistics.median(seconds[f"{name}: {what}"])
        limit = bound(rates)
        found.append([name, what, rate / 1e9, limit / 1e9, f"{100 * rate / limit:.0f} %"])
    header = ["engine", "product", "G entries/s", "bound", "share"]
    print_table(f"Engines, float32: {rows} × {rows} entries", header, found)


def ceiling_rows(rates: dict[str, float]) -> list[tuple[str, float, str]]:
    """(what, rate, unit) of measured ceilings."""
    return [(what, rates[key] / unit, label) for key, (what, unit, label) in _NAMES.items() if key in rates]


_Product = tuple[str, str, Callable[[], object], Callable[[dict[str, float]], float]]


def _products(rows: int, device: str) -> list[_Product]:
    """(engine, what, call, bound) of everything that is timed on the device."""
    out: list[_Product] = []
    generator = torch.Generator().manual_seed(0)
    available = _engines(device)
    for d, s in SHAPES:
        a, b = (torch.randn(rows, d, generator=generator).to(device) / d**0.5 for _ in range(2))
        v = torch.randn(rows, s, generator=generator).to(device)
        bound = partial(_stationary_bound, d=d, s=s)
        for name, own in available.items():
            call = partial(_waited, own.stationary_matmul, a, b, v, _PROFILE)
            out.append((name, f"d = {d}, s = {s}", call, bound))
    bits = (torch.rand(2, rows, _BITS, generator=generator) < 0.5).to(torch.uint8)
    counts = torch.randint(0, 4, (2, rows, _COUNTS), generator=generator, dtype=torch.uint8)
    for x, what, words in ((bits, "bits", _BITS // 64), (counts, "counts", 3 * _COUNTS // 64)):
        a, b = x.to(device)
        bound = partial(_bits_bound, words=words)
        for name, own in available.items():
            call = partial(_waited, own.tanimoto_block, a, b)
            out.append((name, f"{x.shape[2]} {what}", call, bound))
    return out


def _stationary_bound(rates: dict[str, float], *, d: int, s: int) -> float:
    return ceilings.stationary_bound(rates, d, s)[0]


def _bits_bound(rates: dict[str, float], *, words: int) -> float:
    """Without a count of bits, the block through the memory is what is left to bound it."""
    rates = {"bit count": float("inf"), **rates}
    return ceilings.bits_bound(rates, words, entry_bytes=4)


def _engines(device: str) -> dict[str, Engine]:
    if device != "cpu":
        return {"Triton": TRITON} if triton.available() else {}
    native = {f"C++ ({cpu.instruction_sets()[-1]})": CPP} if cpu.available() else {}
    return {**native, "torch": TORCH}


def _waited(product: Callable[..., torch.Tensor], *arguments: object) -> None:
    if product(*arguments).device.type == "cuda":
        torch.cuda.synchronize()

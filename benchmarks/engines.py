"""Rates of products with kernel matrices, in billions of entries a second, beside peers and beside what bounds them.

In every round each ceiling of the machine, our engine and each peer run once, in turn; the medians over the rounds are
printed. The bound of a stationary product is

    1 / max(evaluation, product),   evaluation = 1/E + 2·(d − 1)/F,   product = 2·s/F,

F the FLOP/s of the matrix product (the faster of torch's and of the engine's tiles in cache) and E the entries a second
of the kernel of one coordinate from a tile in cache. Beside the share of it stand the share of the same with torch's
own sgemm for the product, which is slower than the engine's on some machines, and "of the sum", the share of
1 / (evaluation + product), which is what one unit of arithmetic can do. K(x, x) V makes half of K and may pass all.
Of fingerprints, the bound is that of counting the bits of the (thermometer) code from cache, or of writing a block to
memory; sparse rows may pass it, since the engine walks over their non-zeros.

    python benchmarks/engines.py [--sets stationary square float64 bits counts] [--rows 8192] [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import gpytorch
import torch
from torch import Tensor

from lib.common import header, print_table, seeded
from lib.engine_peers import Contender, stationary_peers, tanimoto_peers
from sggp.kernels import TanimotoMinMax, as_covariance
from sggp.native import ceilings, cpu

DIMENSIONS, COLUMNS = (3, 9, 26, 90), (1, 17, 65)
SHARE = 0.70
TIMES = {1: 4.0, 65: 2.0}  # how many times the best peer, by columns
BITS, BITS_RATE, BITS_TIMES = 2048, 0.6, 10.0
COUNTS, COUNTS_RATE = 1024, 0.4
SPARSE_BITS, SPARSE_COUNTS = 45, 45  # set positions of a drug-like molecule's Morgan fingerprint, roughly
CHECKED = 64  # rows compared with float64

Rates = dict[str, float]


def race(
    ours: Contender, peers: list[Contender], dtype: torch.dtype, args
) -> tuple[Rates, Rates, str, float]:
    """Ceilings, rates by name, the best comparable peer, and the median of its paired ratios to ours."""
    works = ceilings.works(dtype, size=min(1.0, args.rows / 4096))
    contenders = [ours, *peers]
    calls: dict[str, Callable[[], object]] = {f"ceiling {name}": work.call for name, work in works.items()}
    calls.update({c.name: c.call for c in contenders})
    with torch.no_grad():
        seconds = ceilings.alternate(calls, args.repeats)
    limits = ceilings.rates(works, {name: seconds[f"ceiling {name}"] for name in works})
    by_round = {c.name: [c.entries / taken for taken in seconds[c.name]] for c in contenders}
    rates = {name: statistics.median(values) for name, values in by_round.items()}
    best = max((c.name for c in peers if c.comparable), key=lambda name: rates[name])
    times = statistics.median(x / y for x, y in zip(by_round[ours.name], by_round[best], strict=True))
    return limits, rates, best, times


def error_of(product: Tensor, a: Tensor, b: Tensor, v: Tensor) -> float:
    """Of the first rows, relative to float64 in the 2-norm."""
    r = torch.cdist(a[:CHECKED].double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist") * 3**0.5
    exact = ((1 + r) * torch.exp(-r)) @ v.double()
    return float((product[:CHECKED] - exact).norm() / exact.norm())


def verdict(*met: bool) -> str:
    return ", ".join("yes" if good else "NO" for good in met) or "–"


def giga(rate: float | None) -> str:
    return "–" if rate is None else f"{rate / 1e9:.3g}"


# --- stationary -------------------------------------------------------------------------------------------------


def stationary(
    title: str, shapes: list[tuple[int, int]], dtype: torch.dtype, square: bool, args, missing
) -> None:
    """One row per (d, s): ours, bound, shares, peers, ratio to the best of them."""
    print(f"## {title}\n")
    kernel = gpytorch.kernels.MaternKernel(nu=1.5)
    kernel.lengthscale = 1.0
    covariance = as_covariance(kernel)
    rows, names = [], []
    for d, s in shapes:
        generator = seeded(100 * d + s)
        b = torch.randn(args.rows, d, generator=generator, dtype=dtype) / d**0.5
        a = b if square else torch.randn(args.rows, d, generator=generator, dtype=dtype) / d**0.5
        v = torch.randn(args.rows, s, generator=generator, dtype=dtype)
        q = covariance.prepare(b)
        p = q if square else covariance.prepare(a, q.centre)
        ours = Contender("sggp", partial(covariance.matmul, p, q, v), float(len(a) * len(b)))
        peers = stationary_peers(a, b, v, missing)
        limits, rates, best, times = race(ours, peers, dtype, args)
        bound, reachable = ceilings.stationary_bound(limits, d, s)
        with_sgemm = min(bound, limits["matrix product"] / (2.0 * s))
        met = [rates["sggp"] >= SHARE * bound] + ([times >= TIMES[s]] if s in TIMES else [])
        names = names or [c.name for c in peers]
        rows.append(
            [
                *(str(d), str(s), giga(rates["sggp"]), giga(bound)),
                *(f"{100 * rates['sggp'] / limit:.0f} %" for limit in (bound, with_sgemm, reachable)),
                *(giga(rates.get(name)) for name in names),
                *(f"{times:.1f} × {best}", verdict(*met), f"{error_of(ours.call(), a, b, v):.0e}"),
            ]
        )
    print_table(
        [
            *("d", "s", "sggp", "bound", "share", "with torch's sgemm", "of the sum", *names),
            *("times the best peer", "met", "error"),
        ],
        rows,
    )
    print_ceilings(limits)


def print_ceilings(limits: Rates) -> None:
    print(
        "ceilings in the last row's rounds: "
        + ", ".join(f"{name} {rate / 1e9:.4g} G/s" for name, rate in limits.items())
        + "\n"
    )


# --- fingerprints -----------------------------------------------------------------------------------------------


def fingerprints(rows: int, width: int, ones: int, largest: int, generator: torch.Generator) -> Tensor:
    """(rows, width) uint8 with about `ones` positions set, counts 1, 2, ... up to `largest` ever rarer."""
    kept = torch.rand(rows, width, generator=generator) < ones / width
    counts = 1 + (-torch.log(torch.rand(rows, width, generator=generator))).long().clamp_max_(largest - 1)
    return (counts * kept).to(torch.uint8)


def tanimoto(title: str, width: int, kinds: list[tuple[str, int, int]], least: float, args, missing) -> None:
    """One row per kind of fingerprint and per block or product."""
    print(f"## {title}\n")
    covariance = as_covariance(TanimotoMinMax())
    rows, names = [], []
    for what, ones, largest in kinds:
        generator = seeded(width + ones)
        a, b = (fingerprints(args.rows, width, ones, largest, generator) for _ in range(2))
        p, q = covariance.prepare(a), covariance.prepare(b)
        words = -(-int(torch.minimum(a.amax(0), b.amax(0)).sum()) // 64)
        for s in (0, 1, 65):
            v = torch.randn(args.rows, s, generator=generator) if s else None
            call = partial(covariance.matmul, p, q, v) if s else partial(covariance.block, p, q)
            peers = tanimoto_peers(a, b, v, missing)
            limits, rates, best, times = race(
                Contender("sggp", call, float(args.rows) ** 2), peers, torch.float32, args
            )
            bound = ceilings.bits_bound(limits, words, entry_bytes=0 if s else 4) if cpu.available() else None
            met = [rates["sggp"] >= least * 1e9]
            if "RDKit bulk" in rates and width == BITS:
                met.append(rates["sggp"] >= BITS_TIMES * rates["RDKit bulk"])
            names = names or [c.name for c in peers]
            rows.append(
                [
                    *(what, f"product, s = {s}" if s else "block", giga(rates["sggp"]), giga(bound)),
                    "–" if bound is None else f"{100 * rates['sggp'] / bound:.0f} %",
                    *(giga(rates.get(name)) for name in names),
                    *(f"{times:.1f} × {best}", verdict(*met)),
                ]
            )
    print_table(["rows", "what", "sggp", "bound", "share", *names, "times the best peer", "met"], rows)
    print_ceilings(limits)


def targets() -> None:
    print(
        f'"met" of stationary products: at least {100 * SHARE:.0f} % of the bound, then at least {TIMES[1]:.0f} times '
        f"the best peer at s = 1 and {TIMES[65]:.0f} times at s = 65. Of bits: at least {BITS_RATE} G/s, and of "
        f"blocks {BITS_TIMES:.0f} times RDKit's; of counts: at least {COUNTS_RATE} G/s. The targets were set for two "
        "cores with AVX-512. Rates are in billions of entries a second.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sets = ("stationary", "square", "float64", "bits", "counts")
    parser.add_argument("--sets", nargs="+", choices=sets, default=list(sets))
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    header("Products with kernel matrices", ("torch", "gpytorch", "pykeops", "gauche", "rdkit"))
    engine = f"C++, {cpu.instruction_sets()[-1]}" if cpu.available() else f"torch: {cpu.unavailable_reason()}"
    print(f"engine of sggp: {engine}; {args.rows} × {args.rows} entries, {args.repeats} rounds\n")
    targets()
    missing: dict[str, str] = {}
    every = [(d, s) for d in DIMENSIONS for s in COLUMNS]
    single = torch.float32
    if "stationary" in args.sets:
        stationary("K(a, b) V, Matérn-3/2, float32", every, single, False, args, missing)
    if "square" in args.sets:
        stationary("K(x, x) V, Matérn-3/2, float32", every, single, True, args, missing)
    if "float64" in args.sets:
        shapes = [(9, 1), (26, 17)]
        stationary("K(a, b) V, Matérn-3/2, float64", shapes, torch.float64, False, args, missing)
    if "bits" in args.sets:
        kinds = [("as molecules", SPARSE_BITS, 1), ("half set", BITS // 2, 1)]
        tanimoto(f"Tanimoto of {BITS} bits", BITS, kinds, BITS_RATE, args, missing)
    if "counts" in args.sets:
        kinds = [("as molecules", SPARSE_COUNTS, 10), ("half set", COUNTS // 2, 4)]
        tanimoto(f"Min-max Tanimoto of {COUNTS} counts", COUNTS, kinds, COUNTS_RATE, args, missing)
    for name, reason in missing.items():
        print(f"left out: {name} ({reason})")


if __name__ == "__main__":
    main()

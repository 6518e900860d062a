"""Compile every kernel of the Triton engine for two GPUs, without one; prints a line for each with its telling PTX.

Run by test_triton.py in a process of its own, outside the interpreter.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from sggp.native.reference import FAMILIES
from sggp.native.triton import host, kernels, stationary

NAMES = {torch.float32: "fp32", torch.float64: "fp64"}
TELLING = ("tf32", "lg2.approx", "sqrt.approx", "ex2.approx", "popc", "mma.", "fma.rn.f32", "fma.rn.f64")


def signature(kernel: Any, constants: dict[str, Any], dtype: torch.dtype) -> dict[str, str]:
    counts = "tanimoto" in kernel.fn.__name__
    types = dict.fromkeys(
        ("a", "b", "weights", "parameters", "v", "out", "left", "right"), f"*{NAMES[dtype]}"
    )
    types |= {"a_sums": "*i32", "b_sums": "*i32"} | ({"a": "*i32", "b": "*i32"} if counts else {})
    if kernel.fn.__name__ == "stationary_gradient":
        types["out"] = "*fp64"
    names = inspect.signature(kernel.fn).parameters
    return {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}


def check(kernel: Any, dtype: torch.dtype, warps: int, capability: int, **constants: Any) -> None:
    source = ASTSource(fn=kernel, signature=signature(kernel, constants, dtype), constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    compiled = compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": True})
    text = compiled.asm["ptx"]
    found = {word: text.count(word) for word in TELLING if word in text}
    words: tuple[object, ...] = (
        capability,
        kernel.fn.__name__,
        NAMES[dtype],
        constants,
        found,
        compiled.metadata.shared,
    )
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def check_ones(capability: int) -> None:
    """Arguments that are 1 at the first launch become constants of the kernel, and have to be usable as such."""
    n, m, warps = stationary._tile(torch.float32, 1)
    settings: dict[str, Any] = {"FAMILY": "rbf", "CHUNK": 1, "WEIGHTED": False, "POPC": True, "BLOCK_D": 2}
    settings |= {"TILES": host.SPAN // m, "BLOCK_N": n, "BLOCK_M": m, "BLOCK_S": 1}
    settings |= dict.fromkeys(("a_stride", "n", "b_stride", "m", "d", "padded", "s", "words"), 1)
    for name in kernels.__all__:
        kernel = getattr(kernels, name)
        names = inspect.signature(kernel.fn).parameters
        known = {name: value for name, value in settings.items() if name in names}
        check(kernel, torch.float32, warps, capability, **known)


def main(capabilities: list[int]) -> None:
    for capability in capabilities:
        check_ones(capability)
        for dtype in NAMES:
            n, m, warps = stationary._tile(dtype, 1)
            tile: dict[str, Any] = {"CHUNK": 9, "BLOCK_N": n, "BLOCK_M": m}
            for family in FAMILIES:
                check(
                    kernels.stationary_block, dtype, warps, capability, FAMILY=family, WEIGHTED=True, **tile
                )
            span = {"FAMILY": "matern12", "TILES": host.SPAN // m, "BLOCK_D": 512}
            check(kernels.stationary_gradient, dtype, warps, capability, **span, **tile)
            check(kernels.tanimoto_block, dtype, 4, capability, POPC=True, BLOCK_N=64, BLOCK_M=64)
            check(kernels.tanimoto_block, dtype, 4, capability, POPC=False, BLOCK_N=64, BLOCK_M=64)
            for columns in (1, 8, 16, 128):
                n, m, warps = stationary._tile(dtype, columns)
                tiles = {"TILES": host.SPAN // m, "BLOCK_N": n, "BLOCK_M": m, "BLOCK_S": columns}
                settings = {"FAMILY": "rq", "CHUNK": 9, "WEIGHTED": False, **tiles}
                check(kernels.stationary_matmul, dtype, warps, capability, **settings)
                check(kernels.tanimoto_matmul, dtype, warps, capability, POPC=True, **tiles)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [80, 90])

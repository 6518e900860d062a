"""Checks of tables: rows of input, targets and noise.

Each raises a DtypeError, ShapeError or InputError that says what was given, what was expected and what to do.
"""

from __future__ import annotations

import reprlib
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from sggp.checks import finite_number
from sggp.defaults import DIRECT_ROWS
from sggp.errors import DtypeError, InputError, ShapeError

__all__ = [
    "all_finite",
    "check_budget",
    "check_noise",
    "check_plain",
    "check_rows",
    "check_targets",
    "checked_dtype",
    "fingerprint_rows",
    "mean_and_std",
    "near_one",
    "real_numbers",
    "real_tensor",
    "tensor_of",
    "working_dtype",
]

_FOLDED = 2**20  # positions; fingerprints that are not folded have 2^32
_WORKING = (torch.float32, torch.float64)


def check_rows(x: Any, name: str = "x", *, dimension: int | None = None) -> Tensor:  # -> (n, d)
    """Rows of input, detached: float32, float64, or integers for Tanimoto kernels; finite, at least one.

    Half precision is taken as float64, which holds the same numbers.

    Args:
        x: what was given. name: what the errors call it. dimension: d, where it is known.
    """
    if not isinstance(x, Tensor):
        raise DtypeError(f"{name} must be a tensor (n, d), got {type(x).__name__}; use torch.as_tensor.")
    check_plain(x, name)
    if x.is_complex():
        raise DtypeError(f"{name} must be floating point or integer, got {x.dtype}; convert it.")
    if x.ndim != 2 or len(x) == 0:
        raise ShapeError(f"{name} must be (n, d) with n ≥ 1, got shape {tuple(x.shape)}.")
    if dimension is not None and x.shape[1] != dimension:
        raise ShapeError(f"{name} must be (n, {dimension}) as elsewhere; got {x.shape[1]} columns.")
    return _finite(x if not x.is_floating_point() or x.dtype in _WORKING else x.double(), name)


def check_targets(y: Any, n: int, name: str = "y") -> Tensor:  # -> (n,)
    """Targets of n rows, detached, float64 and finite."""
    if not isinstance(y, Tensor):
        raise DtypeError(f"{name} must be a tensor ({n},), got {type(y).__name__}; use torch.as_tensor.")
    check_plain(y, name)
    if y.shape != (n,):
        raise ShapeError(f"{name} must be ({n},), one for each row, got shape {tuple(y.shape)}.")
    if y.is_complex():
        raise InputError(f"{name} must be real, got {y.dtype} (complex numbers).")
    return _finite(y.double(), name)


def _finite(values: Tensor, name: str) -> Tensor:
    if values.is_floating_point() and not all_finite(values):
        bad = int((~torch.isfinite(values)).nonzero()[0, 0])
        raise InputError(f"{name} holds NaN or infinity (first in row {bad}); remove or impute such rows.")
    return values.clone() if values.is_inference() else values.detach()


def all_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite; a sum says so without a mask of as many entries, unless it overflows."""
    return bool(torch.isfinite(values.detach().sum())) or bool(torch.isfinite(values).all())


def fingerprint_rows(values: Any) -> Any:
    """A list of RDKit's folded bit or count vectors as an array (n, size), bits as bytes; anything else as it is.

    Raises:
        DtypeError: vectors that are not folded, of 2^32 positions. ShapeError: vectors of several sizes.
    """
    array = getattr(getattr(values, "dtype", None), "kind", "") == "O" and getattr(values, "ndim", 0) == 1
    first = next(iter(values), None) if array or isinstance(values, list | tuple) else None
    if not type(first).__module__.startswith("rdkit.DataStructs"):
        return values
    counts = hasattr(first, "GetNonzeroElements")
    sizes = {int(one.GetLength() if counts else one.GetNumBits()) for one in values}
    if max(sizes) > _FOLDED:
        raise DtypeError(
            f"got {type(first).__name__} of {max(sizes):,} positions, which are not folded: make them by a generator's "
            "GetFingerprint or GetCountFingerprint with fpSize, or by sggp.molecules.SmilesFingerprinter."
        )
    if len(sizes) > 1:
        raise ShapeError(
            f"the fingerprints have {', '.join(map(str, sorted(sizes)))} positions: give one size."
        )
    out = np.zeros((len(values), *sizes), dtype=np.int64 if counts else np.uint8)
    for row, one in enumerate(values):
        if counts:
            for position, count in one.GetNonzeroElements().items():
                out[row, position] = count
        else:
            out[row, list(one.GetOnBits())] = 1
    return out


def check_noise(
    noise_variance: Any, n: int, device: torch.device | str = "cpu", name: str = "noise_variance"
) -> Tensor:  # -> (n,)
    """Noise variances of n rows, detached, float64, finite and not negative, from one number or n of them."""
    expected = f"a number or ({n},) of them, variances in squared units of the target"
    noise = real_numbers(noise_variance, name, expected).to(device)
    if noise.ndim == 0 or noise.numel() == 1:
        noise = noise.reshape(()).expand(n)
    if noise.shape != (n,):
        raise ShapeError(f"{name} must be {expected}; got shape {tuple(noise.shape)}.")
    if not bool(torch.isfinite(noise).all()) or bool((noise < 0).any()):
        raise InputError(
            f"{name} must be {expected}, finite and not negative; got {reprlib.repr(noise_variance)}."
        )
    return noise.contiguous()


def real_numbers(values: Any, name: str, expected: str) -> Tensor:
    """A detached float64 tensor, as by `real_tensor`."""
    return real_tensor(values, name, expected).detach().double()


def real_tensor(values: Any, name: str, expected: str) -> Tensor:
    """A tensor of the type given from a number, a tensor, an array or nested sequences of numbers.

    No real numbers are: text, None, truth values, complex numbers, arrays with masked cells.
    """
    found = None
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):
        if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
            raise TypeError
        found = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if found is not None and found.dtype != torch.bool and not found.is_complex():
        check_plain(found, name)
        return found
    raise DtypeError(f"{name} must be {expected}; got {reprlib.repr(values)} ({type(values).__name__}).")


def tensor_of(values: np.ndarray) -> Tensor:
    """An array as a tensor of the same numbers: in its memory, or a copy where torch cannot share that.

    Read-only memory (of pandas, of `joblib.load(..., mmap_mode="r")`), reversed rows and foreign byte order.
    """
    return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))


def check_plain(x: Tensor, name: str) -> None:
    """Refuse what compiled products lose track of: sparse tensors, those without values, those of transforms.

    Raises:
        DtypeError: `x` is sparse or on the meta device. InputError: it is a tensor of `torch.func` or of forward-mode
            differentiation.
    """
    if x.layout != torch.strided or x.is_meta:
        kind = "on the meta device, without values" if x.is_meta else f"a {x.layout} tensor"
        raise DtypeError(f"{name} must be an ordinary dense tensor, got one that is {kind}; use .to_dense().")
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)
    if wrapped or forward_ad.unpack_dual(x).tangent is not None:
        raise InputError(
            f"{name} are in a transform of torch.func (vmap, grad, jacrev, jvp) or in forward-mode differentiation, "
            "which products with the kernel do not follow. In place of vmap, pass all points at once, (..., q, d); "
            "take derivatives by torch.autograd.grad, or torch.autograd.functional.jacobian and hessian."
        )


def mean_and_std(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n, k) -> (k,), (k,)
    """Mean and population standard deviation of each column, also where its squares leave the range of float64.

    A column times 2^k has exactly 2^k times both.
    """
    unit, exponent = near_one(values)
    return np.ldexp(unit.mean(axis=0), exponent), np.ldexp(unit.std(axis=0), exponent)


def near_one(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n, k) -> (n, k), (k,)
    """Each column over the power of two that brings its largest entry to between 1/2 and 1, and the exponents."""
    exponent = np.frexp(np.abs(values).max(axis=0))[1]
    return np.ldexp(values, -exponent), exponent


def check_budget(memory_budget: Any) -> float:
    """A positive number of bytes; infinity is one."""
    number = finite_number(memory_budget, "memory_budget", infinite=True)
    if number <= 0:
        raise InputError(f"memory_budget must be a positive number of bytes, got {memory_budget}.")
    return number


def working_dtype(rows: int, asked: Any = None) -> torch.dtype:
    """The one precision rule: what systems of so many rows are solved in, whatever type the numbers came in.

    float64 up to 3,000 rows. Beyond, products are in float32, and the solvers measure their residuals and add up their
    corrections in float64, so that the tolerance is met all the same. Hyperparameters and targets are float64 always.

    Args:
        asked: float32 or float64 where the user wants another.
    """
    return checked_dtype(asked) or (torch.float64 if rows <= DIRECT_ROWS else torch.float32)


def checked_dtype(dtype: Any) -> torch.dtype | None:
    """float32, float64 or None."""
    if dtype is not None and dtype not in _WORKING:
        raise DtypeError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}.")
    return dtype

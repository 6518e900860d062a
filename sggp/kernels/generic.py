"""Any GPyTorch kernel, by tiles of itself."""

from __future__ import annotations

import copy
import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import gpytorch
import torch
from linear_operator import to_dense
from torch import Tensor

from sggp.autograd import undisturbed
from sggp.errors import ShapeError, UnsupportedKernel
from sggp.kernels.covariance import Covariance
from sggp.kernels.points import Points
from sggp.native.tiling import tile_shape

__all__ = ["GenericCovariance", "copied", "dense_tile"]

_CHECK_ROWS = 12
_CHECK_TOLERANCE = 1e-6
_EQUAL_TOLERANCE = 1e-3
"""Distances between equal rows are zero or the root of a rounding error, according to the rows they come with."""
# What an unknown kernel keeps alive per entry cannot be known: d coordinates of one pair, and a few temporaries.
_BYTES_PER_ENTRY = 96
_PROBE_DIMENSIONS = (1, 2, 3, 4, 6, 8, 16)
_COMBINED: dict[type, Callable[[Tensor, Tensor], Tensor]] = {
    gpytorch.kernels.AdditiveKernel: operator.add,
    gpytorch.kernels.ProductKernel: operator.mul,
}
_CONSTANT = (type(None), bool, int, float, str, torch.Size, torch.dtype, torch.device)
_CONTAINERS = (dict, OrderedDict, set)
_USUAL_STATE = tuple(
    getattr(kind, name)
    for kind in (object, torch.nn.Module, gpytorch.kernels.Kernel)
    for name in ("__getstate__", "__setstate__")
    if hasattr(kind, name)
)
_SETTINGS = threading.RLock()
"""GPyTorch's settings are those of the process: threads that set and reset them at the same time leave them changed."""


def dense_tile(kernel: gpytorch.kernels.Kernel, x: Tensor, z: Tensor | None = None) -> Tensor:
    """kernel(x, z) as a dense (..., n, m) tensor, through `__call__` so that `active_dims` apply; None stands for x.

    Sums and products are those of dense terms: GPyTorch takes those with a term of low rank, such as `LinearKernel`, by
    way of Cholesky roots, which adds jitter to the others or fails.

    Raises:
        UnsupportedKernel: the tile is not one number per pair of rows.
    """
    with _SETTINGS, gpytorch.settings.lazily_evaluate_kernels(False):
        tile = _dense(kernel, x, z)
    expected = (*x.shape[:-1], (x if z is None else z).shape[-2])
    if tile.shape != expected:
        raise UnsupportedKernel(
            f"{type(kernel).__name__} returned a tile of shape {tuple(tile.shape)}, expected {expected}: one number "
            "per pair of rows (no batch_shape, one output per input)."
        )
    return tile


def _dense(kernel: gpytorch.kernels.Kernel, x: Tensor, z: Tensor | None) -> Tensor:
    inner = kernel.base_kernel if type(kernel) is gpytorch.kernels.ScaleKernel else kernel
    combine = _COMBINED.get(type(inner))
    if combine is None or kernel.active_dims is not None or inner.active_dims is not None:
        return to_dense(kernel(x, z))
    value = reduce(combine, (_dense(term, x, z) for term in inner.kernels))
    return value if inner is kernel else value * kernel.outputscale


class GenericCovariance(Covariance):
    """A frozen copy of a GPyTorch kernel, evaluated tile by tile.

    Tiles are consistent only if an entry does not depend on which other rows are in the call; that is checked on the
    first rows seen, and kernels that fail (random state drawn in `forward`, train-mode tricks) are refused. A GPyTorch
    kernel is not thread-safe, so every thread, dtype and device evaluates its own copy.

    Args:
        kernel: any `gpytorch.kernels.Kernel` without batch shape and with one output per input.
        dtype: working precision for integer input.
    """

    def __init__(self, kernel: gpytorch.kernels.Kernel, *, dtype: torch.dtype | None = None) -> None:
        super().__init__(dtype=dtype, name=type(kernel).__name__)
        self._kernel = _frozen(kernel)
        self._scale: float | None = None
        self._checked = False
        self._diagonal_checked = False
        self._width: int | None = None  # of the rows, once seen
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def _parts(self, raw: Tensor, centre: Tensor | None) -> Mapping[str, Tensor]:
        kernel, columns = self._kernel, self._kernel.active_dims
        seen = raw.shape[1] if columns is None else len(columns)
        while isinstance(kernel, gpytorch.kernels.ScaleKernel) and kernel.ard_num_dims is None:
            kernel = kernel.base_kernel
        if kernel.ard_num_dims not in (None, seen):
            raise ShapeError(
                f"{type(kernel).__name__} has values for {kernel.ard_num_dims} columns and sees {seen}: set "
                f"ard_num_dims={seen}."
            )
        return {}

    def _copy(self, dtype: torch.dtype, device: torch.device) -> gpytorch.kernels.Kernel:
        """This thread's copy. Rows of another dtype meet the parameters as they are, as they do in GPyTorch."""
        copies = self._local.__dict__.setdefault("copies", {})
        key = (dtype, device)
        if key not in copies:
            with undisturbed():
                kernel = _frozen(self._kernel).to(device=device)
                copies[key] = kernel if self._promotes(kernel, dtype, device) else kernel.to(dtype=dtype)
        return copies[key]

    def _promotes(self, kernel: gpytorch.kernels.Kernel, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether the kernel takes rows of `dtype` without a change to its parameters."""
        if all(p.dtype == dtype for p in kernel.parameters()):
            return True
        if self._width is None:
            return False
        rows = torch.zeros(2, self._width, dtype=dtype, device=device)
        try:
            with torch.no_grad():
                dense_tile(kernel, rows, rows)
        except RuntimeError:  # a product of two dtypes somewhere inside
            return False
        return True

    @property
    def scale(self) -> float:
        """The largest diagonal entry among the first rows seen, or among a few made-up rows before that."""
        if self._scale is None:
            self._scale = self._probe()
        return self._scale

    def _probe(self) -> float:
        generator = torch.Generator().manual_seed(0)
        for d in _PROBE_DIMENSIONS:
            rows = torch.randn(16, d, generator=generator, dtype=torch.float64)
            try:
                return float(self._diagonal(rows, torch.float64).abs().max())
            except (RuntimeError, IndexError):
                continue
        return 1.0

    def _diagonal(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        with _SETTINGS, gpytorch.settings.lazily_evaluate_kernels(False):
            return to_dense(self._copy(dtype, rows.device)(rows.to(dtype), diag=True))

    def _block(self, x: Points, z: Points) -> Tensor:
        if not self._checked:
            self._check(x, z)
        self._width = x.shape[1]
        dtype = torch.promote_types(_seen_in(x), _seen_in(z))
        kernel, left, right = self._copy(dtype, x.device), x.raw.to(dtype), z.raw.to(dtype)
        if torch.is_grad_enabled() and (x.requires_grad or z.requires_grad):
            # Some kernels take a short cut when both arguments are equal, and then lose the gradient in the second:
            # one more row makes them differ.
            return dense_tile(kernel, left, torch.cat([right, right[:1].detach()])).to(x.dtype)[:, :-1]
        with torch.no_grad():
            return dense_tile(kernel, left.detach(), right.detach()).to(x.dtype)

    def diagonal(self, x: Tensor | Points) -> Tensor:
        """kernel(x, diag=True), differentiable in the rows."""
        x = self.prepare(x)
        self._width = x.shape[1]
        if not self._diagonal_checked and len(x):
            self._check_diagonal(x.raw.detach()[:_CHECK_ROWS].double())
        diagonal = self._diagonal(x.raw, _seen_in(x)).to(x.dtype)
        if self._scale is None and len(x):
            self._scale = float(diagonal.detach().abs().max())
        return diagonal.expand(len(x))

    def _tile_shape(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> tuple[int, int]:
        d = x.shape[1]
        per_entry = _BYTES_PER_ENTRY + 16 * d
        return tile_shape(len(x), len(z), memory_budget, per_entry=per_entry, per_row=32 * d + 8 * v.shape[1])

    def _check(self, x: Points, z: Points) -> None:
        """Refuse kernels whose entries depend on the company they are evaluated in."""
        a = x.raw.detach()[:_CHECK_ROWS].double()
        b = z.raw.detach()[-_CHECK_ROWS:].double()
        self._compare(a, b, max(1, len(a) // 2), _CHECK_TOLERANCE)
        self._compare(
            a, a, len(a), _EQUAL_TOLERANCE
        )  # whole rows: each is its own neighbour only in one piece of two
        self._checked = min(len(x), len(z)) > 1 or self._checked

    def _check_diagonal(self, a: Tensor) -> None:
        """Refuse a kernel whose diagonal is not that of its matrix: variances would be wrong."""
        kernel = _frozen(self._kernel).to(torch.float64)
        with _SETTINGS, torch.no_grad(), gpytorch.settings.lazily_evaluate_kernels(False):
            stated = to_dense(kernel(a, diag=True)).expand(len(a))
            found = dense_tile(kernel, a, a).diagonal()
        worst = int((stated - found).abs().argmax())
        if float((stated - found)[worst].abs()) > _EQUAL_TOLERANCE * float(found.abs().max()):
            raise UnsupportedKernel(
                f"{self.name} with diag=True gives {float(stated[worst]):.6g} where its matrix has "
                f"{float(found[worst]):.6g} on the diagonal: forward(x, x, diag=True) must return k(x_i, x_i)."
            )
        self._diagonal_checked = True

    def _compare(self, a: Tensor, b: Tensor, height: int, tolerance: float) -> None:
        """Refuse a kernel whose matrix of the rows a and b is not that of pieces of so many of a and half of b."""
        with torch.no_grad():
            whole = dense_tile(_frozen(self._kernel).to(torch.float64), a, b)
            pieces = _frozen(self._kernel).to(torch.float64)
            parts = b.split(max(1, len(b) // 2))
            rows = [torch.cat([dense_tile(pieces, p, q) for q in parts], 1) for p in a.split(max(1, height))]
        split = torch.cat(rows, 0) if rows else whole
        size = float(whole.abs().max()) if whole.numel() else 0.0
        worst = float((split - whole).abs().max()) if whole.numel() else 0.0
        if worst > tolerance * max(size, 1e-300):
            raise UnsupportedKernel(
                f"{self.name} is not tile-safe: an entry changed by {worst:.2g} (largest entry "
                f"{size:.2g}) when its rows were evaluated with other rows, so products by tiles would be wrong. "
                "Use a kernel whose entries depend on their two rows only (fix random weights in the constructor, "
                "not in forward)."
            )


def _seen_in(x: Points) -> torch.dtype:
    """What the kernel sees the rows in: never narrower than they were given, so that only entries are narrowed.

    In a lower precision, rows many periods from the origin would lose their phases.
    """
    return torch.promote_types(x.raw.dtype, x.dtype) if x.raw.is_floating_point() else x.dtype


def copied(kernel: Any) -> Any:
    """`copy.deepcopy` of a kernel, or prior, in 40 % of its time: most of what they hold is nothing, or cannot change.

    Raises:
        RuntimeError: a tensor that it holds has a graph.
    """
    return _copied(kernel, {})


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    """The copy of a module, also entered in the memo of `copy.deepcopy`, which copies what asks for its own way."""
    if id(module) in memo or not isinstance(module, torch.nn.Module):
        return copy.deepcopy(module, memo)
    kind: Any = type(module)
    made = (kind.__new__, kind.__reduce_ex__) == (object.__new__, object.__reduce_ex__)
    usual = kind.__getstate__ in _USUAL_STATE and kind.__setstate__ in _USUAL_STATE
    if not made or not usual or hasattr(kind, "__deepcopy__"):
        return copy.deepcopy(module, memo)
    memo[id(module)] = new = object.__new__(kind)
    state = vars(new)
    for name, value in vars(module).items():
        if name == "_modules":
            state[name] = type(value)((key, _copied(child, memo)) for key, child in value.items())
        elif name == "_buffers":
            state[name] = type(value)((key, _buffer(tensor, memo)) for key, tensor in value.items())
        elif name == "_compiled_call_impl":
            state[name] = None  # as torch does it
        elif type(value) in _CONSTANT:
            state[name] = value
        elif type(value) in _CONTAINERS and not value:
            state[name] = memo[id(value)] = type(value)()
        else:
            state[name] = copy.deepcopy(value, memo)
    return new


def _buffer(tensor: Tensor | None, memo: dict[int, Any]) -> Tensor | None:
    """The copy of a buffer; of one that others may look into, by `copy.deepcopy`."""
    if tensor is None or type(tensor) is not Tensor or tensor.requires_grad or vars(tensor):
        return copy.deepcopy(tensor, memo)
    if tensor.untyped_storage().nbytes() != tensor.nbytes:
        return copy.deepcopy(tensor, memo)
    if id(tensor) not in memo:
        memo[id(tensor)] = tensor.clone()
    return memo[id(tensor)]


def _frozen(kernel: gpytorch.kernels.Kernel) -> gpytorch.kernels.Kernel:
    return copied(kernel).requires_grad_(False).eval()

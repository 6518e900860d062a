"""Nested plain values with tensors in them, as JSON that names tensors, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.errors import InputError

__all__ = ["pack", "unpack"]

_TENSOR, _ARRAY, _TUPLE, _FLOAT, _PAIRS = "$tensor", "$array", "$tuple", "$float", "$pairs"
"""Keys that stand for what JSON has not: {"$tensor": name}, {"$float": "inf"}, {"$pairs": [[key, value], …]}."""


def pack(content: Any) -> tuple[Any, dict[str, Tensor]]:
    """`content` as what JSON can say, and the tensors in it by their places ("posteriors.0.data.x").

    A tensor that stands in several places is there once.

    Raises:
        InputError: something in it is no tensor, NumPy array of numbers, number, text, truth value, None, or a list,
            tuple or dict of those; with its place.
    """
    packer = _Packer()
    return packer.pack(content, ""), packer.tensors


class _Packer:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[Any, str] = {}
        self._kept: list[Tensor] = []  # alive, so that no other tensor takes their memory

    def pack(self, value: Any, place: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise _refused(value, place)
            native = np.array(value, dtype=value.dtype.newbyteorder("="))
            return {_ARRAY: self._name(torch.from_numpy(native), place)}
        if isinstance(value, Tensor):
            device = {} if value.device.type == "cpu" else {"device": str(value.device)}
            return {_TENSOR: self._name(value, place), **device}
        if isinstance(value, list | tuple):
            items = [self.pack(item, f"{place}.{i}") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {_TUPLE: items}
        if isinstance(value, Mapping):
            pairs = [[self.pack(k, place), self.pack(v, f"{place}.{k}")] for k, v in value.items()]
            if all(isinstance(k, str) and not k.startswith("$") for k in value):
                return dict(pairs)
            return {_PAIRS: pairs}
        raise _refused(value, place)

    def _name(self, tensor: Tensor, place: str) -> str:
        """The tensor kept under a name, which it may have already."""
        if tensor.layout != torch.strided or tensor.is_complex():
            raise _refused(tensor, place)
        tensor = tensor.detach()
        same = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and same in self._names:
            return self._names[same]
        name = place.removeprefix(".") or "value"
        while name in self.tensors or name.startswith("__"):
            name = f"again.{name}"
        self.tensors[name], self._names[same] = tensor.cpu().contiguous(), name
        self._kept.append(tensor)
        return name


def _refused(value: Any, place: str) -> InputError:
    of = f" of {value.dtype}" if isinstance(value, np.ndarray | Tensor) else ""
    return InputError(
        f"a file cannot hold the {type(value).__name__}{of} at {place.removeprefix('.') or 'its top'}: it holds "
        "tensors, numbers, text, and lists, tuples and dicts of them."
    )


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given; tensors on the device they were on, as far as there is such a device.

    Raises:
        LookupError, TypeError, ValueError: the tree is none of `pack`'s, or names a tensor that is not there.
    """
    if isinstance(tree, list):
        return [unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _TENSOR in tree:
        return tensors[tree[_TENSOR]].to(_device(tree.get("device", "cpu")))
    if _ARRAY in tree:
        return tensors[tree[_ARRAY]].numpy()
    if _TUPLE in tree:
        return tuple(unpack(item, tensors) for item in tree[_TUPLE])
    if _FLOAT in tree:
        return float(tree[_FLOAT])
    if _PAIRS in tree:
        return {unpack(k, tensors): unpack(v, tensors) for k, v in tree[_PAIRS]}
    return {name: unpack(item, tensors) for name, item in tree.items()}


def _device(name: str) -> torch.device:
    device = torch.device(name)
    there = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    return device if there else torch.device("cpu")

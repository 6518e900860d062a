"""Work that does not hang on the caller's `torch.no_grad` or `torch.inference_mode`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["with_gradients", "without_inference_mode"]


@contextmanager
def with_gradients() -> Iterator[None]:
    """For what takes derivatives of its own: they are on, wherever it is called; also a decorator."""
    with without_inference_mode(), torch.enable_grad():
        yield


@contextmanager
def without_inference_mode() -> Iterator[None]:
    """For what is kept: tensors made in `torch.inference_mode` can never take part in derivatives; also a decorator."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield

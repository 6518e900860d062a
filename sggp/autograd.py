"""Work that does not hang on the modes of torch that the caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["full_precision", "undisturbed", "with_gradients"]


@contextmanager
def with_gradients() -> Iterator[None]:
    """For what takes derivatives of its own: they are on, wherever it is called; also a decorator."""
    with undisturbed(), torch.enable_grad():
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """For what is kept, in full precision: tensors made in `torch.inference_mode` can never take part in derivatives.

    Also a decorator.
    """
    with ExitStack() as stack:
        stack.enter_context(full_precision())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Without `torch.autocast`, which would round matrix products of float32 to half precision; also a decorator."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield

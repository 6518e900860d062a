"""A plugin of pytest: Triton's interpreter without what it does anew for every call of a device function.

Each such call looks through Triton's language for what is to be patched, which mostly is patched already. Where Triton
has no such parts nothing is changed.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any


def pytest_configure() -> None:
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    if hasattr(interpreter, "_patch_builtin") and hasattr(interpreter, "_patch_attr"):
        interpreter._patch_builtin = functools.partial(_patched, interpreter, {})


def _patched(interpreter: Any, known: dict[Any, list[tuple[str, Any]]], place: Any, *more: Any) -> None:
    """Patch the members of a module or class that are builtins and not patched yet; which those are is kept."""
    if place not in known:
        builtins = inspect.getmembers(place, interpreter.tl.core.is_builtin)
        known[place] = builtins
    for name, member in known[place]:
        if getattr(place, name) is member:
            interpreter._patch_attr(place, name, member, *more)

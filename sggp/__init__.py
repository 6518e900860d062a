"""Gaussian processes solved iteratively, and the decisions they support.

Importing this package loads nothing but itself: every public name is fetched from its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sggp.errors import NotConverged as NotConverged
    from sggp.errors import SggpError as SggpError

__version__ = "0.1.0"

_HOME = {
    "NotConverged": "sggp.errors",
    "SggpError": "sggp.errors",
}

__all__ = ["NotConverged", "SggpError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sggp' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

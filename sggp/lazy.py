"""Packages that fetch their public names from their modules at first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def names_on_demand(
    package: str, names_of: Mapping[str, Sequence[str]], further: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose import is to load nothing but itself.

    Args:
        package: its `__name__`.
        names_of: names of each of its modules. Type checkers find them in imports under `TYPE_CHECKING`.
        further: public names that are there at once.
    """
    home = {name: module for module, names in names_of.items() for name in names}

    def fetch(name: str) -> Any:
        if name not in home:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; its public names are "
                f"{', '.join(sorted({*home, *further}))}"
            )
        try:
            module = import_module(home[name])
        except (
            AttributeError
        ) as error:  # which Python would take for "there is no such name", without the reason
            raise ImportError(f"{home[name]} could not be loaded: {error}") from error
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return fetch, lambda: sorted({*vars(sys.modules[package]), *home})

"""What no argument of a number, table, path or seed can be, and the test that each is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from sggp.errors import SggpError

NAN = float("nan")
TEXT = ["gaussian", b"x", "", np.array(["a", "b"])]
NOTHING = [None]
KINDS = [object(), {"a": 1}, {1.0}, lambda: 1.0, float]
COMPLEX = [1j, torch.ones(20, 2) * 1j, np.array([1j])]
RAGGED = [[[1.0, 2.0], [3.0]], [1.0, "a"], [1.0, None]]
NUMBERS = [
    *TEXT,
    *KINDS,
    *COMPLEX,
    *RAGGED,
    True,
    torch.tensor(True),
    NAN,
    float("inf"),
    -1.0,
    [],
    torch.ones(0),
]
WHOLE = [
    *TEXT,
    *NOTHING,
    *KINDS,
    *COMPLEX,
    *RAGGED,
    2.5,
    True,
    NAN,
    -1,
    torch.tensor(2.5),
    torch.ones(2),
    [3],
]
SEEDS = ["a", 1.5, True, object(), [1]]
PATHS = [None, 1, b"x", ["a"], object(), True]


def not_refused(call: Callable[[Any], object], values: Iterable[Any], name: str) -> list[str]:
    """Where `call` takes a value, raises another error than ours, or one that does not name it: a line each."""
    wrong = []
    for value in values:
        shown = f"{str(value)[:40]!r} ({type(value).__name__})"
        try:
            call(value)
        except SggpError as error:
            if name not in str(error):
                wrong.append(f"{shown}: does not name {name}: {error}")
        except Exception as error:  # noqa: BLE001
            wrong.append(f"{shown}: {type(error).__name__}: {error}")
        else:
            wrong.append(f"{shown}: accepted")
    return wrong

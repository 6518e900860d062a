"""What users give a campaign, checked before anything is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sggp.checks import finite_number, whole_number
from sggp.errors import DtypeError, InputError


def trial_id(value: Any) -> int:
    """The number of a trial: an integer of Python, NumPy or PyTorch. 2.0, True and "2" are refused."""
    return whole_number(value, "the number of a trial", least=None)


def pairs(items: Any, expected: str) -> list[tuple[Any, Any]]:
    """(first, second) pairs of a dict or a sequence."""
    try:
        return [(first, second) for first, second in (items.items() if isinstance(items, Mapping) else items)]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected {expected} pairs, got {type(items).__name__}: {error}.") from error


def text(value: Any, name: str) -> str:
    """A text that every kind of storage can keep: no lone surrogates, no zero characters."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text, got {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} cannot be written as UTF-8: {error}.") from error
    if "\0" in value:
        raise InputError(f"{name} holds a zero character: leave it out.")
    return value


def reason(value: Any) -> str:
    """Why a stored value is changed: a text that is not empty, for those who read the journal."""
    given = text(value, "why")
    if not given.strip():
        raise InputError(
            "why is empty: say in a few words why the stored result is changed; the journal keeps it."
        )
    return given


def cost_json(cost: Any) -> dict[str, float]:
    """The cost as part of an event's data; none for None."""
    return {} if cost is None else {"cost": amount(cost, "cost")}


def amount(value: Any, name: str) -> float:
    """A finite number of at least 0."""
    number = finite_number(value, name)
    if number < 0:
        raise InputError(f"{name} must be at least 0, got {number!r}.")
    return number


def json_dict(info: Any) -> dict[str, Any]:
    """A dict of JSON values."""
    if not isinstance(info, dict):
        raise DtypeError(f"info must be a dict of JSON values, got {type(info).__name__}.")
    try:
        return json.loads(json.dumps(info, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"info must hold JSON values only, to be stored: {error}.") from error


def instance(value: Any, kind: type, name: str) -> Any:
    """None or an object of a kind."""
    if value is not None and not isinstance(value, kind):
        raise DtypeError(f"{name} must be a {kind.__name__} or None, got {type(value).__name__}.")
    return value

"""Settings of a solver, and what a solve gave, as plain values to keep in a file, and back: without pickle."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from sggp.errors import InputError
from sggp.preconditioners import Preconditioner
from sggp.solvers.core.base import Solver
from sggp.solvers.core.solution import Solution, Status

__all__ = ["describe_solution", "describe_solver", "rebuild_solution", "rebuild_solver"]

_DTYPE = "torch."
_PLAIN = (bool, int, float, str)
_ROOMS = ("sggp.solvers.", "sggp.preconditioners.")
_KEPT = [f.name for f in dataclasses.fields(Solution) if f.name not in ("status", "history", "notes")]


def describe_solver(solver: Solver | Preconditioner) -> dict[str, Any] | None:
    """A built-in solver as a dictionary of plain values, for `rebuild_solver`.

    Args:
        solver: one of `sggp.solvers`, with any settings; a preconditioner in it becomes a dictionary of its own.

    Returns:
        {"class": name, field: value, …} with numbers, strings, None and such dictionaries as values; None for a class
        of the user's own (or with a setting of one), which a file cannot hold.

    Example:
        >>> from sggp.solvers import ConjugateGradients, describe_solver, rebuild_solver
        >>> content = describe_solver(ConjugateGradients(replace_every=20))
        >>> content["class"], content["replace_every"]
        ('ConjugateGradients', 20)
        >>> rebuild_solver(content)
        ConjugateGradients(preconditioner='auto', replace_every=20, float64_products=False)
    """
    if _built_in(type(solver).__name__) is not type(solver):
        return None
    content: dict[str, Any] = {"class": type(solver).__name__}
    for name in (f.name for f in dataclasses.fields(solver)):  # type: ignore[arg-type]
        setting = getattr(solver, name)
        if isinstance(setting, torch.dtype):
            setting = str(setting)
        elif setting is not None and type(setting) not in _PLAIN:
            setting = describe_solver(setting)
            if setting is None:
                return None
        content[name] = setting
    return content


def rebuild_solver(content: dict[str, Any]) -> Solver:
    """The solver that `describe_solver` described.

    Raises:
        InputError: the dictionary does not describe a solver of this version.
    """
    found = _rebuilt(content)
    if not isinstance(found, Solver):
        raise InputError(f"expected the description of a solver, got {content!r}.")
    return found


def describe_solution(solution: Solution) -> dict[str, Any]:
    """All of a solution but its history, as tensors and plain values: O(n·s) numbers."""
    return {
        **{name: getattr(solution, name) for name in _KEPT},
        "status": [str(status) for status in solution.status],
        "notes": list(solution.notes),
    }


def rebuild_solution(content: dict[str, Any]) -> Solution:
    """The solution that `describe_solution` described.

    Raises:
        LookupError, TypeError, ValueError: the dictionary does not describe one.
    """
    return Solution(
        **{
            "residual_kind": "true",  # of files that do not say: they were written when there was no other kind
            **content,
            "status": tuple(Status(status) for status in content["status"]),
            "notes": tuple(content["notes"]),
        }
    )


def _rebuilt(content: Any) -> Any:
    kind = _built_in(content["class"]) if isinstance(content, dict) and "class" in content else None
    if kind is None:
        raise InputError(
            f"{content!r} does not describe a solver or preconditioner of this version of sggp; expected a dictionary "
            "made by describe_solver."
        )
    settings = {name: value for name, value in content.items() if name != "class"}
    for name, value in settings.items():
        if isinstance(value, dict):
            settings[name] = _rebuilt(value)
        elif isinstance(value, str) and value.startswith(_DTYPE):
            settings[name] = getattr(torch, value.removeprefix(_DTYPE), None)
    try:
        return kind(**settings)
    except TypeError as error:
        raise InputError(
            f"{content['class']} of this version of sggp has other settings: {error}."
        ) from error


def _built_in(name: Any) -> type[Any] | None:
    """The solver or preconditioner of that name that comes with sggp."""
    waiting: list[type[Any]] = [Solver, Preconditioner]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name and kind.__module__.startswith(_ROOMS) and dataclasses.is_dataclass(kind):
            return kind
        waiting.extend(kind.__subclasses__())
    return None

"""What the events of a journal make of trials and settings; nothing here reads or writes a storage.

Data of the events, as JSON (a *place* is index, x, label, key; *values* are those of `values_json`):
    created     the settings
    settings    settings to change: {name: value}, of which "info" is merged into the old one
    asked       a place; batch; expected and why where the rule gave them
    attached    a place; values; cost
    told        values (new outcomes of a trial that was told others), cost
    failed      policy
    amended     values, cost: put in the place of those of the same name
    withdrawn   nothing
    identified  label, key, index: what a trial is that was known by its row only
    migrated    from: the version
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from sggp.bayesopt.storage.base import Draft, Event
from sggp.bayesopt.trials import Measurement, Place, Trial
from sggp.errors import DataFileError, InputError

_PACK_FROM = 64  # coordinates; a fingerprint has thousands, mostly 0


# JSON ---------------------------------------------------------------------------------------------------------------


def dumps(value: Any) -> str:
    """JSON in one form only, so that equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def point_json(x: Sequence[float | str] | None) -> list[float | str] | str | None:
    """A point as a list, or as a packed text where it is long and all float64 numbers: compressed, base 85."""
    if x is None or len(x) < _PACK_FROM or not all(isinstance(cell, float) for cell in x):
        return None if x is None else list(x)
    return base64.b85encode(zlib.compress(np.asarray(x, dtype="<f8").tobytes(), 9)).decode()


def json_point(given: list[float | str] | str | None) -> tuple[float | str, ...] | None:
    """The point of `point_json`."""
    if isinstance(given, str):
        given = np.frombuffer(zlib.decompress(base64.b85decode(given)), dtype="<f8").tolist()
    return None if given is None else tuple(given)


def place_json(place: Place) -> dict[str, Any]:
    """A place, without what it does not have."""
    full = {"index": place.index, "x": point_json(place.x), "label": place.label, "key": place.key}
    return {name: value for name, value in full.items() if value is not None}


def json_place(given: Mapping[str, Any]) -> Place:
    """The place of `place_json`, among other data perhaps."""
    return Place(given.get("index"), json_point(given.get("x")), given.get("label"), given.get("key"))


def values_json(values: Mapping[str, Measurement]) -> dict[str, Any]:
    """Outcomes by name, each [value], [value, noise_std] or [value, noise_std, censored]."""
    out = {}
    for name, one in values.items():
        parts = [one.value, one.noise_std, one.censored]
        while parts[-1] is None:
            parts.pop()
        out[name] = parts
    return out


def json_values(given: Mapping[str, Sequence[Any]]) -> dict[str, Measurement]:
    """The outcomes of `values_json`."""
    return {name: Measurement(*parts) for name, parts in given.items()}


# what events do -----------------------------------------------------------------------------------------------------


def start(event: Event, number: int, outcomes: Sequence[str]) -> Trial:
    """The new trial of an "asked" or "attached"."""
    data, place = event.data, json_place(event.data)
    expected = None if data.get("expected") is None else (data["expected"][0], data["expected"][1])
    pending = Trial(
        number, place.index, place.x, place.label, "pending", None, None, data.get("batch", 0), event.what, event.at,
        None, key=place.key, expected=expected, why=data.get("why"),
    )  # fmt: skip
    return pending if event.what == "asked" else _measured(pending, event, outcomes)


def change(trial: Trial, event: Event, outcomes: Sequence[str]) -> Trial:
    """The trial after an event that concerns it."""
    return _CHANGES[event.what](trial, event, outcomes)


def _measured(trial: Trial, event: Event, outcomes: Sequence[str]) -> Trial:
    values = {**trial.values, **json_values(event.data.get("values", {}))}
    ordered = {name: values[name] for name in (*outcomes, *sorted(values)) if name in values}
    first = ordered.get(outcomes[0])
    return replace(
        trial,
        state="measured",
        values=ordered,
        value=None if first is None else first.value,
        cost=event.data.get("cost", trial.cost),
        reason=None,
        policy=None,
        told_at=event.at,
    )


def _failed(trial: Trial, event: Event, _: Sequence[str]) -> Trial:
    return replace(
        trial,
        state="failed",
        reason=event.reason or "",
        policy=event.data["policy"],
        cost=event.data.get("cost", trial.cost),
        told_at=event.at,
    )


def _withdrawn(trial: Trial, event: Event, _: Sequence[str]) -> Trial:
    return replace(
        trial, state="withdrawn", value=None, values={}, policy=None, reason=event.reason, told_at=event.at
    )


def _identified(trial: Trial, event: Event, _: Sequence[str]) -> Trial:
    return replace(trial, **event.data)


_CHANGES: dict[str, Callable[[Trial, Event, Sequence[str]], Trial]] = {
    "told": _measured,
    "amended": _measured,
    "failed": _failed,
    "withdrawn": _withdrawn,
    "identified": _identified,
}


def with_settings(meta: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings after a "settings" event."""
    new = {**meta, **data}
    if "info" in data:
        new["info"] = {**meta.get("info", {}), **data["info"]}
    return new


def replay(events: Iterable[Event]) -> tuple[dict[str, Any], list[Trial]]:
    """The settings and trials that a journal leads to.

    Raises:
        DataFileError: an event is not as the one before it leaves room for, or was changed after it was written.
    """
    meta: dict[str, Any] = {}
    trials: dict[int, Trial] = {}
    number, before = 0, ""
    for number, event in enumerate(events, start=1):
        if event.number != number or event.digest != digest(event, before):
            raise DataFileError(f"event {number} of the journal was changed, or one before it is missing")
        before = event.digest
        try:
            if event.what in ("asked", "attached") and event.trial is not None:
                trials[event.trial] = start(event, event.trial, outcome_names(meta))
            elif event.what in _CHANGES and event.trial is not None:
                trials[event.trial] = change(trials[event.trial], event, outcome_names(meta))
            elif event.what in ("created", "settings"):
                meta = with_settings(meta, event.data)
        except (LookupError, TypeError, ValueError) as error:
            raise DataFileError(
                f"event {number} of the journal ({event.what}) makes no sense: {error}"
            ) from error
    if not number:
        raise DataFileError("the journal is empty")
    return meta, [trials[number] for number in sorted(trials)]


def outcome_names(meta: Mapping[str, Any]) -> list[str]:
    """The names of what is measured, the first objective first."""
    parts = [*(meta.get("objectives") or ({"name": "value"},)), *(meta.get("constraints") or ())]
    return list(dict.fromkeys(part["name"] for part in parts))


# what is allowed ----------------------------------------------------------------------------------------------------


def check(trial: Trial, draft: Draft) -> bool:
    """Whether a draft changes the trial; refuses, by an InputError, what its state forbids."""
    if draft.what == "identified":
        return True
    now = _described(trial)
    if draft.what == "told":
        new, cost = json_values(draft.data["values"]), draft.data.get("cost")
        if trial.state == "pending":
            return True
        known = {name: trial.values.get(name) for name in new}
        agrees = all(known[name] in (None, new[name]) for name in new)
        if trial.state == "measured" and agrees and (cost is None or trial.cost in (None, cost)):
            return None in known.values() or (cost is not None and trial.cost is None)
        raise InputError(
            f"trial {trial.id} was already {now}; amend(id, value, why) corrects it, attach(x, value) adds a repeat."
        )
    if draft.what == "failed":
        if trial.state in ("measured", "withdrawn"):
            way = (
                "withdraw(id, why) takes a value back"
                if trial.values
                else "it has no value, and waits for none"
            )
            raise InputError(f"trial {trial.id} was already {now}; {way}.")
        same = trial.state == "failed" and trial.policy == draft.data["policy"]
        return not (same and (draft.reason or "") in ("", trial.reason))
    if draft.what == "amended":
        if trial.state == "pending":
            raise InputError(f"trial {trial.id} has no value to correct yet: tell(id, value) reports one.")
        return True
    return trial.state != "withdrawn"


def _described(trial: Trial) -> str:
    if trial.state == "measured":
        given = ", ".join(
            (f"{name} = " if len(trial.values) > 1 else "") + str(one) for name, one in trial.values.items()
        )
        return f"measured as {given}"
    return {
        "failed": f"marked failed ({trial.reason})",
        "withdrawn": f"withdrawn ({trial.reason})",
        "pending": "asked for",
    }[trial.state]


# writing ------------------------------------------------------------------------------------------------------------


def digest(event: Event, before: str) -> str:
    """Checksum of an event and of all before it."""
    parts = [before, event.number, event.at, event.what, event.trial, event.data, event.reason, event.program]
    return hashlib.blake2b(dumps(parts).encode(), digest_size=16).hexdigest()


def write(draft: Draft, number: int, before: str, at: str | None = None, program: str | None = None) -> Event:
    """The event of a draft, after the event whose digest is `before`."""
    event = Event(
        number, at or now(), draft.what, draft.trial, draft.data, draft.reason, program or this_program(), ""
    )
    return replace(event, digest=digest(event, before))


def now() -> str:
    """The time as it is written, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def this_program() -> str:
    """Name and version, as events keep them."""
    try:
        return f"sggp {importlib.metadata.version('sggp')}"
    except importlib.metadata.PackageNotFoundError:  # a copy of the source that was not installed
        return "sggp"

"""How a campaign begins: a new one from its arguments, an old one from its storage."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sggp.bayesopt.binding import Binding
from sggp.bayesopt.given import amount, json_dict
from sggp.bayesopt.outcomes.define import Outcomes
from sggp.bayesopt.rules import RuleLike, check_rule, default_rule
from sggp.bayesopt.spaces.base import Space, check_space
from sggp.bayesopt.spaces.box import Box
from sggp.bayesopt.storage import Draft, Moved, Storage
from sggp.checks import direction, one_of, whole_number
from sggp.errors import DataFileError, DtypeError, InputError, LibraryChanged
from sggp.random import as_generator, draw_seed

_NAMED = 5


class Begun(NamedTuple):
    """The arguments of `Campaign` that are kept in the storage."""

    maximize: Any
    objectives: Any
    constraints: Any
    num_initial: Any
    seed: Any
    info: Any
    rule: Any
    budget: Any
    standardise: Any = None


def begin(space: Any, store: Storage, given: Begun) -> tuple[Binding | None, RuleLike, dict[str, Any]]:
    """The space with its trials found, the rule and the settings; a new campaign is created. Raises as `Campaign`."""
    checked = None if space is None else check_space(space)
    settings = _settings(checked, given)
    if not store.exists:
        if checked is None:
            raise DataFileError(f"there is no campaign in {store.name}; to start one give its space.")
        if settings["maximize"] is None:
            raise InputError("the direction is never guessed: pass maximize=True or maximize=False.")
        with suppress(Moved):  # another process was quicker: its settings are checked as any stored ones
            store.create(settings)
    meta = store.meta()
    _check(store, meta, settings, given)
    rule = _rule(store, meta, given.rule)
    binding = _bind(checked, store, meta)
    if given.budget is not None and settings["budget"] != meta.get("budget"):
        store.append(
            [Draft("settings", data={"budget": settings["budget"]}, reason="another budget was given")]
        )
        meta = store.meta()
    return binding, rule, meta


def _settings(space: Space | None, given: Begun) -> dict[str, Any]:
    """What a new campaign keeps."""
    objectives, constraints = _outcomes(given)
    maximize = None if given.maximize is None else direction(given.maximize, "maximize")
    if objectives:
        first = direction(objectives[0].get("maximize"), "maximize of the first objective")
        if maximize not in (None, first):
            raise InputError("maximize contradicts the first objective: give objectives alone.")
        maximize = first
    usual = 1 if space is None else space.num_initial
    rule = None if given.rule is None else check_rule(given.rule)
    return {
        "uuid": uuid.uuid4().hex,  # two campaigns of the same settings are not the same
        "maximize": maximize,
        "objectives": objectives,
        "constraints": constraints,
        "space": {} if space is None else space.describe(),
        "seed": draw_seed(as_generator(None))
        if given.seed is None
        else whole_number(given.seed, "seed", least=None),
        "num_initial": whole_number(usual if given.num_initial is None else given.num_initial, "num_initial"),
        "info": json_dict(given.info or {}),
        "rule": _kept(rule, space, len(objectives)),
        "budget": None if given.budget is None else amount(given.budget, "budget"),
        "standardise": _policy(space, given.standardise),
    }


def _policy(space: Space | None, given: Any) -> str:
    """The policy by which molecules are the same, checked before a file is made."""
    from sggp.molecules.standardise import POLICIES

    policy = one_of("none" if given is None else given, "standardise", POLICIES)
    if space is not None:
        Binding(space, policy)  # type: ignore[arg-type]
    return policy


def _outcomes(given: Begun) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The objectives, none where `maximize` alone is given, and the constraints, checked together."""
    objectives = _json_list(given.objectives, "objectives")
    checked = Outcomes.from_json(
        {
            "objectives": objectives or [{"name": "value", "maximize": True}],
            "constraints": _json_list(given.constraints, "constraints"),
        }
    ).as_json()
    return checked["objectives"] if objectives else [], checked["constraints"]


def _kept(rule: Any, space: Any, objectives: int) -> str | None:
    """The name of a rule, the default's for None; None for a rule of the user's own."""
    if rule is not None:
        return rule if isinstance(rule, str) else None
    if objectives > 1:
        return "hypervolume" if objectives <= 3 else "thompson"
    return None if space is None else default_rule(space)


def _json_list(items: Any, name: str) -> list[dict[str, Any]]:
    if items is None:
        return []
    if isinstance(items, str | dict) or not isinstance(items, Sequence):
        raise DtypeError(f"{name} must be a list, got {type(items).__name__}.")
    out = [item if isinstance(item, dict) else getattr(item, "as_json", dict)() for item in items]
    for item in out:
        if not isinstance(item.get("name"), str) or not item["name"]:
            raise InputError(
                f"each of {name} needs a name: give Objective(...) or Constraint(...), got {item!r:.80}."
            )
    return [json_dict(item) for item in out]


def _check(store: Storage, meta: dict[str, Any], settings: dict[str, Any], given: Begun) -> None:
    """Refuse what contradicts the stored settings."""
    if settings["maximize"] not in (None, bool(meta["maximize"])):
        word = "maximised" if meta["maximize"] else "minimised"
        raise InputError(f"{store.name} is to be {word}; take another file for the reverse.")
    for name in ("objectives", "constraints"):
        if getattr(given, name) and settings[name] != (meta.get(name) or []):
            raise InputError(
                f"{store.name} has other {name}: {meta.get(name) or []}, given: {settings[name]}."
            )
    policy = meta.get("standardise", "none")
    if given.standardise not in (None, policy):
        raise InputError(
            f"{store.name} takes molecules as the same by {policy!r}, which all its trials are bound by; start another "
            f"campaign for {given.standardise!r}."
        )
    here, stored = settings["space"], meta["space"]
    by_kind = stored.get("kind") in ("pool", "reactions")  # their trials are bound to molecules
    same = here.get("kind") == stored.get("kind") if by_kind else here == stored
    if here and not same:
        raise InputError(f"{store.name} is of another space: {stored}, given: {here}.")


def _rule(store: Storage, meta: dict[str, Any], given: Any) -> RuleLike:
    stored = meta.get("rule", "thompson")  # the first files had none
    if given is None and stored is None:
        raise InputError(f"{store.name} was started with a rule of its own: pass it as rule=.")
    return stored if given is None else check_rule(given)


def _bind(space: Space | None, store: Storage, meta: dict[str, Any]) -> Binding | None:
    """The space with the stored trials found in it; what an old file's trials are is written to it."""
    if space is None:
        if meta["space"].get("kind") != "box":
            return None
        space = Box.from_description(meta["space"])
    binding = Binding(space, meta.get("standardise", "none"))
    trials = store.snapshot().trials
    drafts = binding.identify(trials, meta["space"])
    if drafts:
        store.append(drafts)
        trials = store.snapshot().trials
    _name_vanished(store, binding, trials)
    return binding


def _name_vanished(store: Storage, binding: Binding, trials: Sequence[Any]) -> None:
    found = binding.bind(trials)
    lost = [
        now
        for before, now in zip(trials, found, strict=True)
        if before.index is not None and now.index is None and now.state != "withdrawn"
    ]
    if not lost:
        return
    if all(now.index is None and not binding.usable(now) for now in found):
        raise InputError(
            f"{store.name} is of another space: the pool given holds none of its {len(trials)} trials, and no "
            "SMILES are known to go on with. Give the pool it was started on."
        )
    names = ", ".join(f"{trial.label or trial.key} (trial {trial.id})" for trial in lost[:_NAMED])
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    waiting = [str(trial.id) for trial in lost if trial.state == "pending"]
    blind = sum(not binding.usable(trial) for trial in lost if trial.state == "measured")
    said = (
        f"{store.name}: {len(lost)} of its {len(trials)} trials are no longer in the library: {names}{more}. "
    )
    said += "Their results are kept and they are not asked for again"
    said += f"; {blind} of them the model cannot use, since their features are unknown" if blind else ""
    said += f"; still pending: {', '.join(waiting)} (tell, fail or withdraw them)" if waiting else ""
    warnings.warn(said + ".", LibraryChanged, stacklevel=5)

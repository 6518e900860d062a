"""Acquisition rules on sample paths: one file and one row of `RULES` each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from sggp.bayesopt.rules.base import Choice, PosteriorLike, Rule, is_pool
from sggp.bayesopt.rules.ei import ExpectedImprovement
from sggp.bayesopt.rules.greedy import Greedy
from sggp.bayesopt.rules.tempered import TemperedThompson
from sggp.bayesopt.rules.thompson import ThompsonSampling
from sggp.bayesopt.rules.top_k import TopK
from sggp.bayesopt.rules.ucb import UpperConfidenceBound
from sggp.checks import one_of
from sggp.errors import DtypeError

__all__ = [
    "DEFAULT_BOX_RULE",
    "DEFAULT_RULE",
    "RULES",
    "Choice",
    "ExpectedImprovement",
    "Greedy",
    "PosteriorLike",
    "Rule",
    "RuleLike",
    "TemperedThompson",
    "ThompsonSampling",
    "TopK",
    "UpperConfidenceBound",
    "check_rule",
    "default_rule",
    "make_rule",
]

RuleLike: TypeAlias = str | Callable[..., Rule]
"""A name in `RULES`, or a subclass of `Rule` (or anything called like one, such as a `functools.partial`)."""

RULES: dict[str, type[Rule]] = {
    "thompson": ThompsonSampling,
    "tempered": TemperedThompson,
    "top-k": TopK,
    "ucb": UpperConfidenceBound,
    "ei": ExpectedImprovement,
    "greedy": Greedy,
}

DEFAULT_RULE = "ucb"
"""The rule over a pool where none is named, by measurement: see docs/rules.md."""

DEFAULT_BOX_RULE = "thompson"
"""The rule in a box where none is named."""


def default_rule(space: Any) -> str:
    """The name of the rule that `Campaign`, `screen` and the commands take where none is named."""
    return DEFAULT_RULE if is_pool(space) else DEFAULT_BOX_RULE


def check_rule(rule: Any) -> RuleLike:
    """Refuse an unknown name (InputError), and what is neither a name nor something to call (DtypeError)."""
    if isinstance(rule, str):
        return one_of(rule, "rule", RULES)
    if isinstance(rule, Rule) or not callable(rule):
        raise DtypeError(
            f"rule must be one of {', '.join(map(repr, RULES))} or a subclass of Rule, got {type(rule).__name__}."
        )
    return rule


def make_rule(rule: RuleLike, *settings: Any, **options: Any) -> Rule:
    """The rule that is meant, with the arguments of `Rule`."""
    checked = check_rule(rule)
    return (RULES[checked] if isinstance(checked, str) else checked)(*settings, **options)

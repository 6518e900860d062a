"""Spaces of products that nobody lists: reactions times reagents, searched by the reagents."""

from sggp.bayesopt.combinatorial.effects import ReagentEffect, reagent_effects
from sggp.bayesopt.combinatorial.effort import Effort, SearchReport
from sggp.bayesopt.combinatorial.space import Combinatorial

__all__ = ["Combinatorial", "Effort", "ReagentEffect", "SearchReport", "reagent_effects"]

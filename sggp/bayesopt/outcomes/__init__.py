"""Several outcomes, censored values, failures and outliers: what is wanted, and what the data say about it."""

from sggp.bayesopt.outcomes.beliefs import Beliefs, build_beliefs
from sggp.bayesopt.outcomes.define import Constraint, Objective, Outcomes
from sggp.bayesopt.outcomes.fronts import hypervolume, non_dominated
from sggp.bayesopt.outcomes.results import Front, pareto, ranked, stated
from sggp.bayesopt.outcomes.tables import BeliefSettings

__all__ = [
    "BeliefSettings",
    "Beliefs",
    "Constraint",
    "Front",
    "Objective",
    "Outcomes",
    "build_beliefs",
    "hypervolume",
    "non_dominated",
    "pareto",
    "ranked",
    "stated",
]

"""Several outcomes, censored values, failures and outliers: what is wanted, and what the data say about it."""

from sggp.bayesopt.outcomes.define import Constraint, Objective, Outcomes

__all__ = ["Constraint", "Objective", "Outcomes"]

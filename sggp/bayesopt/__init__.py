"""What to measure next: spaces, maximisers of sample paths, Thompson sampling and campaigns."""

from sggp.bayesopt.campaign import Campaign
from sggp.bayesopt.combinatorial import Combinatorial, Effort
from sggp.bayesopt.maximise import BoxSearch, maximise_pool
from sggp.bayesopt.outcomes import Constraint, Objective
from sggp.bayesopt.outlook import Outlook
from sggp.bayesopt.rules import Rule, ThompsonSampling
from sggp.bayesopt.spaces import (
    Box,
    Categorical,
    Continuous,
    Integer,
    LinearConstraint,
    Ordinal,
    Pool,
    Space,
    maximise_box,
)
from sggp.bayesopt.storage import Storage
from sggp.bayesopt.surrogate import Surrogate, fit_surrogate
from sggp.bayesopt.trials import Measurement, Trial

__all__ = [
    "Box",
    "BoxSearch",
    "Campaign",
    "Categorical",
    "Combinatorial",
    "Constraint",
    "Continuous",
    "Effort",
    "Integer",
    "LinearConstraint",
    "Measurement",
    "Objective",
    "Ordinal",
    "Outlook",
    "Pool",
    "Rule",
    "Space",
    "Storage",
    "Surrogate",
    "ThompsonSampling",
    "Trial",
    "fit_surrogate",
    "maximise_box",
    "maximise_pool",
]

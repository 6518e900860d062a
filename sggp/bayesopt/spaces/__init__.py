"""Where the next measurement may be made: boxes of settings and pools of candidates."""

from sggp.bayesopt.spaces.base import Space, check_room, check_space
from sggp.bayesopt.spaces.box import Box
from sggp.bayesopt.spaces.columns import Categorical, Column, Continuous, Integer, Ordinal
from sggp.bayesopt.spaces.constraints import LinearConstraint
from sggp.bayesopt.spaces.pool import Pool
from sggp.bayesopt.spaces.search import maximise_box

__all__ = [
    "Box",
    "Categorical",
    "Column",
    "Continuous",
    "Integer",
    "LinearConstraint",
    "Ordinal",
    "Pool",
    "Space",
    "check_room",
    "check_space",
    "maximise_box",
]

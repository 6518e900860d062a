"""Where the next measurement may be made: boxes of settings and pools of candidates."""

from sggp.bayesopt.spaces.base import Space, check_room, check_space
from sggp.bayesopt.spaces.box import Box
from sggp.bayesopt.spaces.pool import Pool

__all__ = ["Box", "Pool", "Space", "check_room", "check_space"]

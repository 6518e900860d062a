"""What to measure next: spaces, maximisers of sample paths, Thompson sampling and campaigns."""

from sggp.bayesopt.campaign import Campaign
from sggp.bayesopt.maximise import BoxSearch, maximise_box, maximise_pool
from sggp.bayesopt.space import Box, Pool
from sggp.bayesopt.storage import Trial
from sggp.bayesopt.surrogate import Surrogate, fit_surrogate
from sggp.bayesopt.thompson import ThompsonSampling

__all__ = [
    "Box",
    "BoxSearch",
    "Campaign",
    "Pool",
    "Surrogate",
    "ThompsonSampling",
    "Trial",
    "fit_surrogate",
    "maximise_box",
    "maximise_pool",
]

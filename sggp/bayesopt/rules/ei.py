"""Expected improvement on the best that is expected."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sggp.bayesopt.rules.base import is_pool, sample_note
from sggp.bayesopt.rules.scores import ScoreRule

_FAR = -1e3


class ExpectedImprovement(ScoreRule):
    """Rank by E[max(f − best, 0)]; `values` are its logarithms (their negatives where smaller values are better).

    best is the largest mean in the space, so that one lucky measurement is not the mark; for a batch of k rows of a
    pool it is the k-th largest mean: what is gained is then that of the k best together. In a box slot 0 maximises
    expected improvement and the others maximise sample paths: the improvement along one path is largest where the
    path is.

    Args, Raises: as `Rule`.

    Source: Mockus (1975); the logarithm: Ament et al. (2023), "Unexpected improvements to expected improvement".
    """

    needs_best = True

    def score(self, mean: Tensor, std: Tensor, best: float) -> Tensor:
        return std.log() + log_gain((mean - best) / std)

    def note(self, slot: int, value: float, scaling: tuple[float, float]) -> str:
        if slot and not is_pool(self.space):
            return "the best place of " + sample_note(self, slot, value, scaling)
        gain = math.exp(self.sign * value) * scaling[1]
        return f"gain of {gain:.2g} expected on the best means, number {slot + 1} of the batch"


def log_gain(z: Tensor) -> Tensor:
    """log(φ(z) + z·Φ(z)), the logarithm of E[max(z + N(0, 1), 0)], to rounding for every z."""
    near = z.clamp_min(-1.0)
    direct = (_density(near) + near * torch.special.ndtr(near)).log()
    tail = z.clamp(_FAR, -1.0)
    # Φ(z)/φ(z) = √(π/2)·erfcx(−z/√2); far out, where the subtraction loses its digits, 1 + z·Φ/φ = 1/z² − 3/z⁴ + …
    share = 1.0 + tail * math.sqrt(0.5 * math.pi) * torch.special.erfcx(-tail / math.sqrt(2.0))
    far = z.clamp_max(_FAR)
    beyond = torch.log1p(-3.0 / far.square()) - 2.0 * far.neg().log()
    logs = torch.where(z > _FAR, share.log(), beyond)
    return torch.where(z > -1.0, direct, logs - 0.5 * z.square() - 0.5 * math.log(2.0 * math.pi))


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)

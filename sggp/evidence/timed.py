"""Noise models and outlying rows, as far as there is time for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from sggp.evidence.leave_one_out import Observed, Seen
from sggp.evidence.outliers import outlying_rows
from sggp.evidence.spread import NoiseModel, learn_noise_model
from sggp.running import OutOfTime, go_on, share_of_time, time_is_up, within_time

_NO_TIME = "one normal noise for all rows: no time was left to learn another"
T = TypeVar("T")


@share_of_time(1.0, "noise model")
def learn_noise_in_time(
    observed: Observed,
    noise_variance: float,
    generator: torch.Generator,
    apart: Tensor | None = None,
    seen: Seen | None = None,
) -> NoiseModel:
    """`learn_noise_model`, or one normal noise where the seconds of `sggp.running.in_time` are over before its end."""
    kept = None if apart is None else observed.noise
    plain = NoiseModel(row_noise=kept, noise_variance=noise_variance, apart=apart, reason=_NO_TIME)
    return _in_time(lambda: learn_noise_model(observed, noise_variance, generator, apart, seen), plain)


@share_of_time(1.0, "outlying rows")
def outlying_rows_in_time(
    observed: Observed, generator: torch.Generator
) -> tuple[Tensor | None, Seen | None]:  # -> (k,), seen
    """`outlying_rows`, and what they were sought by; neither where the seconds of `in_time` are over before its end."""
    neither: tuple[Tensor | None, Seen | None] = (None, None)

    def look() -> tuple[Tensor | None, Seen | None]:
        seen = Seen.of(observed, generator)
        return outlying_rows(observed, seen, generator), seen

    return _in_time(look, neither)


def _in_time(learn: Callable[[], T], otherwise: T) -> T:
    try:
        with within_time():
            go_on()
            return learn()
    except OutOfTime:
        time_is_up()  # which notes what was cut short
        return otherwise

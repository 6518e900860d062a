"""The correction of paths by left-out measurements: what it learns, and what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sggp.bayesopt import Surrogate
from sggp.bayesopt.outcomes import BeliefSettings, Objective, Outcomes, build_beliefs
from sggp.bayesopt.outlook import Recalibration
from sggp.bayesopt.outlook.recalibrate import recalibrate
from sggp.bayesopt.trials import Measurement, Trial


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Judged(Surrogate):
    """A model whose left-out predictions are given."""

    left: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        return self.left


def judged(truth: Tensor, mean: Tensor, std: Tensor) -> Surrogate:
    x = torch.arange(len(truth), dtype=torch.float64)[:, None]
    return Judged(None, 0.0, 1.0, True, x, truth, left=(mean, std))  # type: ignore[arg-type]


def test_a_model_that_is_right_is_left_alone() -> None:
    mean = torch.randn(800, generator=seeded(1), dtype=torch.float64)
    truth = mean + 0.5 * torch.randn(800, generator=seeded(2), dtype=torch.float64)
    found = recalibrate(judged(truth, mean, torch.full_like(mean, 0.5)), 1.0, seeded(0))
    assert found.judged == 800
    assert found.mean.abs().max() < 0.15
    correct = found.draw(200, seeded(3))
    points, noise = (
        torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64),
        torch.randn(200, 3, generator=seeded(4)).double(),
    )
    assert torch.allclose(correct(points, 0.5 * noise), points + 0.5 * noise, atol=0.25)


def test_shrunken_and_timid_predictions_are_corrected() -> None:
    mean = 0.5 * torch.randn(800, generator=seeded(1), dtype=torch.float64)
    truth = 1.5 * mean + 0.3 * torch.randn(800, generator=seeded(2), dtype=torch.float64)
    for sign in (1.0, -1.0):
        found = recalibrate(judged(truth, mean, torch.full_like(mean, 0.6)), sign, seeded(0))
        noise = torch.randn(4000, 2, generator=seeded(4), dtype=torch.float64)
        points = torch.tensor([-0.5, 0.5], dtype=torch.float64)
        values = found.draw(4000, seeded(3))(points, 0.6 * noise)
        assert values.mean(0).tolist() == pytest.approx([-0.75, 0.75], abs=0.12)
        assert values[1::2].std(0).tolist() == pytest.approx([0.3, 0.3], abs=0.06)
        assert values[::2].std(0).tolist() == pytest.approx([0.6, 0.6], abs=0.06)  # these do not shrink


def test_an_end_of_the_scale_is_kept() -> None:
    latent = torch.randn(600, generator=seeded(1), dtype=torch.float64)
    noisy = latent + 0.6 * torch.randn(600, generator=seeded(2), dtype=torch.float64)
    truth = 1.2 * torch.tanh(noisy / 1.2)
    mean = 1.1 * torch.tanh(latent / 1.2)
    found = recalibrate(judged(truth, mean, torch.full_like(mean, 0.45)), 1.0, seeded(0))
    assert found.mean[-1] > 0.3
    noise = torch.randn(4000, 1, generator=seeded(4), dtype=torch.float64)
    top = found.draw(4000, seeded(3))(torch.tensor([0.9], dtype=torch.float64), 0.45 * noise)
    plain = 0.9 + 0.45 * noise
    assert float(top[1::2].quantile(0.99)) < float(plain.quantile(0.99)) - 0.25
    assert float(top[::2].quantile(0.99)) < float(plain.quantile(0.99)) - 0.15


def test_the_lower_end_of_a_scale_says_nothing_of_the_upper_one() -> None:
    mean = torch.randn(600, generator=seeded(1), dtype=torch.float64)
    noisy = mean + 0.4 * torch.randn(600, generator=seeded(2), dtype=torch.float64)
    truth = torch.where(noisy < 0, 0.8 * torch.tanh(noisy / 0.8), noisy)
    found = recalibrate(judged(truth, mean, torch.full_like(mean, 0.4)), 1.0, seeded(0))
    assert abs(float(found.mean[-1])) < 0.1


def test_rows_far_from_all_measurements_are_told_apart() -> None:
    std = torch.cat([torch.full((300,), 0.3), torch.full((300,), 1.0)]).double()
    factor = torch.cat([torch.full((300,), 0.6), torch.full((300,), 1.3)]).double()
    truth = factor * std * torch.randn(600, generator=seeded(2), dtype=torch.float64)
    found = recalibrate(judged(truth, torch.zeros_like(std), std), 1.0, seeded(0))
    noise = torch.randn(4000, 2, generator=seeded(4), dtype=torch.float64)
    at = torch.zeros(2, dtype=torch.float64)
    values = found.draw(4000, seeded(3))(at, torch.tensor([0.3, 1.0], dtype=torch.float64) * noise)
    assert values[1::2].std(0).tolist() == pytest.approx([0.18, 1.3], rel=0.2)
    assert values[::2].std(0).tolist() == pytest.approx([0.3, 1.3], rel=0.2)


def test_repeats_and_too_few_measurements_teach_nothing() -> None:
    truth = torch.tensor([0.1, 0.4, -0.3, 0.2, 0.2], dtype=torch.float64)
    model = judged(truth, truth, torch.ones_like(truth))
    assert recalibrate(model, 1.0, seeded(0)).judged == 5
    assert model.x is not None
    twins = replace(model, x=model.x.index_fill(0, torch.tensor([1, 2]), 7.0))
    assert recalibrate(twins, 1.0, seeded(0)).judged == 0
    nothing = Recalibration.nothing().draw(3, seeded(1))
    deviation = torch.randn(3, 2, generator=seeded(2), dtype=torch.float64)
    mean = torch.tensor([-0.4, 2.0], dtype=torch.float64)
    assert torch.allclose(nothing(mean, deviation), mean + deviation)


def told(number: int, value: float | str | None) -> Trial:
    """A measured trial, or a failed one that the model takes for the worst value."""
    y = {} if value is None else {"y": Measurement.parse(value)}
    first = y["y"].value if y else None
    state, policy = ("measured", None) if y else ("failed", "imputed")
    return Trial(number, None, None, None, state, first, None, 0, "asked", "", "", values=y, policy=policy)


def believed(x: Tensor, values: list[float | str | None]) -> Surrogate:
    trials = [told(number, value) for number, value in enumerate(values, start=1)]
    wanted = Outcomes([Objective("y", True)])
    return build_beliefs(x, wanted, trials, BeliefSettings(num_samples=0, num_features=64), 7).surrogate


def noisy_height(rows: int, seed: int) -> tuple[Tensor, Tensor]:  # (n, 2), (n,)
    x = torch.rand(rows, 2, generator=seeded(seed), dtype=torch.float64)
    noise = 0.1 * torch.randn(rows, generator=seeded(seed + 50), dtype=torch.float64)
    return x, torch.sin(5 * x[:, 0]) + x[:, 1] + noise


def test_bounds_are_no_measurements_that_were_predicted_well() -> None:
    """Their pseudo-values with their large noise made a third of a table look far too timid: widths times 0.7."""
    widths = []
    for seed in range(3):
        x, y = noisy_height(40, seed)
        model = believed(x, [">1.2" if v > 1.2 else float(v) for v in y])
        found = recalibrate(model, 1.0, seeded(0))
        assert found.judged == 40
        widths.append(float(found.mean[2]))
    assert sum(widths) / 3 > -0.15


def test_bounds_say_on_which_side_the_truth_lies() -> None:
    mean = torch.randn(800, generator=seeded(1), dtype=torch.float64)
    truth = mean - 1.0 + 0.5 * torch.randn(800, generator=seeded(2), dtype=torch.float64)
    side = torch.where(truth > 0, 1.0, 0.0).double()
    model = replace(judged(truth, mean, torch.full_like(mean, 0.5)), told=truth.clamp_max(0.0), side=side)
    found = recalibrate(model, 1.0, seeded(0))
    assert float(found.mean[0]) == pytest.approx(-1.0, abs=0.1)
    assert found.mean[1:].abs().max() < 0.2


def test_a_failure_that_counts_as_a_bad_value_is_no_measurement() -> None:
    x, y = noisy_height(24, 3)
    model = believed(x, [None if row < 6 else float(v) for row, v in enumerate(y)])
    assert recalibrate(model, 1.0, seeded(0)).judged == 18


def test_a_left_out_bound_has_the_noise_of_a_measurement() -> None:
    x, y = noisy_height(40, 0)
    model = believed(x, [">1.2" if v > 1.2 else float(v) for v in y])
    _, std = model.leave_one_out()
    bound = y > 1.2
    assert 10 < int(bound.sum()) < 30
    assert float(std[bound].max()) < 3 * float(std[~bound].max())  # of pseudo-values it was 2 where y spans 3
    assert float(std.min()) > model.noise_std

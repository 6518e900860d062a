"""A campaign asks, is told, survives being killed, and never guesses the direction."""

from __future__ import annotations

import signal
import sqlite3
import textwrap

import pytest
import torch

from sggp.bayesopt import Box, Campaign, Pool, fit_surrogate
from sggp.bayesopt.storage import Draft, Moved
from sggp.bayesopt.storage.journal import place_json
from sggp.errors import DataFileError, InputError, ShapeError

BOX = [[0.0, 1.0], [-2.0, 2.0]]


@pytest.fixture(scope="module", autouse=True)
def _short_searches() -> None:
    """Here models are learnt as users learn them."""


def height(x) -> float:
    return -((x[0] - 0.7) ** 2) - (x[1] - 0.5) ** 2


def pool(rows: int = 40) -> Pool:
    generator = torch.Generator().manual_seed(5)
    return Pool(torch.randint(0, 3, (rows, 16), generator=generator).to(torch.uint8))


def test_direction_is_never_guessed(tmp_path):
    with pytest.raises(InputError, match="never guessed"):
        Campaign(Box(BOX), tmp_path / "c.db")
    assert list(tmp_path.iterdir()) == []


def test_stored_direction_is_kept_and_the_other_refused(tmp_path):
    Campaign(Box(BOX), tmp_path / "c.db", maximize=False, seed=1)
    assert Campaign(Box(BOX), tmp_path / "c.db").maximize is False
    with pytest.raises(InputError, match="minimised"):
        Campaign(Box(BOX), tmp_path / "c.db", maximize=True)


def test_another_space_is_refused(tmp_path):
    campaign = Campaign(pool(), tmp_path / "c.db", maximize=True, seed=1)
    campaign.attach(3, 1.0)
    other = Pool(torch.full((5, 16), 3, dtype=torch.uint8))
    for bad in (Box(BOX), other, Pool(torch.zeros(5, 3, dtype=torch.uint8))):
        with pytest.raises(InputError, match="another space"):
            Campaign(bad, tmp_path / "c.db")
    Campaign(Box(BOX), tmp_path / "b.db", maximize=True, seed=1)
    for bad in (pool(), Box([[0.0, 1.0], [-2.0, 3.0]])):
        with pytest.raises(InputError, match="another space"):
            Campaign(bad, tmp_path / "b.db")


def test_a_file_that_is_no_campaign_is_refused(tmp_path):
    path = tmp_path / "c.db"
    path.write_text("some notes of mine, longer than a header of a database file is " * 40)
    with pytest.raises(DataFileError, match="not an sggp campaign"):
        Campaign(Box(BOX), path, maximize=True)
    assert path.read_text().startswith("some notes")
    with pytest.raises(DataFileError, match="does not exist"):
        Campaign(Box(BOX), tmp_path / "none" / "c.db", maximize=True)


@pytest.mark.slow  # four batches of a campaign go from the first to the last in tests/cli and in the examples, too
def test_box_campaign_improves_on_its_first_points(tmp_path):
    campaign = Campaign(Box(BOX), tmp_path / "c.db", maximize=True, seed=3, num_initial=6)
    for q in (6, 4, 4, 4, 4):
        trials = campaign.ask(q)
        assert [trial.state for trial in trials] == ["pending"] * q
        for trial in trials:
            campaign.space.check(trial.x)
            campaign.tell(trial.id, height(trial.x))
    first = max(trial.value for trial in campaign.results()[:6])
    best = campaign.best()[0]
    assert best.batch > 1
    assert best.value > first
    assert best.value > -0.02


def test_pool_campaign_never_repeats_a_row_and_orders_the_best(tmp_path):
    campaign = Campaign(pool(), tmp_path / "c.db", maximize=False, seed=3, num_initial=4)
    seen = []
    for _ in range(3):
        for trial in campaign.ask(5):
            seen.append(trial.index)
            campaign.tell(trial.id, float(campaign.space.rows([trial.index]).sum()))
    assert len(set(seen)) == 15
    values = [trial.value for trial in campaign.best(15)]
    assert values == sorted(values)
    assert [trial.id for trial in campaign.results()] == list(range(1, 16))
    with pytest.raises(InputError, match="only 25 rows"):
        campaign.ask(26)


def test_failed_and_pending_rows_are_not_asked_again(tmp_path):
    campaign = Campaign(pool(6), tmp_path / "c.db", maximize=True, seed=1)
    first, second = campaign.ask(2)
    campaign.fail(first.id, "would not dissolve")
    assert [trial.id for trial in campaign.pending] == [second.id]
    rest = campaign.ask(4)
    assert {trial.index for trial in rest} | {first.index, second.index} == set(range(6))
    assert campaign.results()[0].reason == "would not dissolve"


def test_answers_are_told_once(tmp_path):
    campaign = Campaign(Box(BOX), tmp_path / "c.db", maximize=True, seed=1)
    trial = campaign.ask(1)[0]
    campaign.tell(trial.id, 1.5)
    assert campaign.tell(trial.id, 1.5).value == 1.5
    with pytest.raises(InputError, match="already measured as 1"):
        campaign.tell(trial.id, 2.0)
    with pytest.raises(InputError, match="already measured"):
        campaign.fail(trial.id)
    with pytest.raises(InputError, match="no trial 99"):
        campaign.tell(99, 1.0)
    with pytest.raises(InputError, match="finite"):
        campaign.tell(trial.id, float("nan"))


def test_many_answers_are_stored_together_or_not_at_all(tmp_path):
    campaign = Campaign(Box(BOX), tmp_path / "c.db", maximize=True, seed=1)
    a, b = campaign.ask(2)
    with pytest.raises(InputError, match="no trial 77"):
        campaign.tell_many([(a.id, 1.0), (77, 2.0)])
    assert len(campaign.pending) == 2
    campaign.tell_many([(a.id, 1.0), (b.id, 2.0)])
    assert campaign.pending == []


def test_attached_data_is_used_and_checked(tmp_path):
    campaign = Campaign(pool(), tmp_path / "c.db", maximize=True, seed=1, num_initial=3)
    campaign.attach(3, 1.0)
    campaign.attach(torch.tensor(3), 1.2)  # a repeat
    outside = torch.full((16,), 2, dtype=torch.uint8)
    campaign.attach(outside, 5.0)
    assert [trial.index for trial in campaign.results()] == [3, 3, None]
    assert torch.equal(campaign.space.features(campaign.results())[2], outside)
    assert 3 not in {trial.index for trial in campaign.ask(39)}
    for bad, kind in ((40, InputError), (1.5, InputError), (torch.zeros(3), ShapeError), ("CCO", InputError)):
        with pytest.raises(kind):
            campaign.attach(bad, 1.0)
    box = Campaign(Box(BOX), tmp_path / "b.db", maximize=True, seed=1)
    with pytest.raises(InputError, match="outside"):
        box.attach([3.0, 0.0], 1.0)


def test_two_processes_cannot_be_given_the_same_row(tmp_path):
    campaign = Campaign(pool(), tmp_path / "c.db", maximize=True, seed=1)
    last, _ = campaign.store.snapshot()
    data = place_json(campaign.space.place(4))
    campaign.store.append([Draft("asked", data=data)], after=last)
    with pytest.raises(Moved):
        campaign.store.append([Draft("asked", data=data)], after=last)
    assert [trial.index for trial in campaign.results()] == [4]


def test_changes_are_durable(tmp_path):
    campaign = Campaign(Box(BOX), tmp_path / "c.db", maximize=True, seed=1)
    with campaign.store._connect() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
    with sqlite3.connect(tmp_path / "c.db") as other:
        campaign.ask(2)
        assert other.execute("SELECT COUNT(*) FROM trials").fetchone() == (2,)


CHILD = """
    import os, signal, sys
    from sggp.bayesopt import Box, Campaign
    campaign = Campaign(Box({box}), sys.argv[1], maximize=True, seed=9, num_initial=3)
    for _ in range(4):
        if campaign.pending:
            trials = campaign.pending
        else:
            trials = campaign.ask(2)
        for number, trial in enumerate(trials):
            campaign.tell(trial.id, -sum((v - 0.4) ** 2 for v in trial.x))
            if sys.argv[2] == "killed" and trial.id == 5:
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_campaign_continues_as_if_it_had_not_been(scripts, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD.format(box=BOX)))

    def run(name: str, how: str) -> int:
        return scripts.run(script, tmp_path / name, how).returncode

    assert run("whole.db", "whole") == 0
    assert run("cut.db", "killed") == -signal.SIGKILL
    cut = Campaign(Box(BOX), tmp_path / "cut.db")
    assert [trial.state for trial in cut.results()] == ["measured"] * 5 + ["pending"]
    whole = Campaign(Box(BOX), tmp_path / "whole.db")
    pending = cut.pending[0]
    assert pending.x == whole.results()[5].x
    cut.tell(pending.id, whole.results()[5].value)
    assert [trial.x for trial in cut.ask(2)] == [trial.x for trial in whole.results()[6:8]]


def test_too_little_or_constant_data_still_gives_a_batch(tmp_path):
    campaign = Campaign(pool(), tmp_path / "c.db", maximize=True, seed=1, num_initial=1)
    campaign.attach(0, 2.0)
    assert len(campaign.ask(3)) == 3
    for row in (1, 2, 3, 4, 5):
        campaign.attach(row, 2.0)
    assert not campaign.model().learned
    assert len(campaign.ask(3)) == 3


def test_surrogate_refuses_unusable_data():
    x = torch.zeros(3, 2)
    with pytest.raises(ShapeError, match="one value per row"):
        fit_surrogate(x, torch.zeros(2), num_samples=1)
    with pytest.raises(InputError, match="not finite"):
        fit_surrogate(x, torch.tensor([0.0, 1.0, float("nan")]), num_samples=1)
    with pytest.raises(InputError, match="no measurement"):
        fit_surrogate(torch.empty(0, 2), torch.empty(0), num_samples=1)


def test_leave_one_out_is_what_leaving_one_out_gives():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 2, generator=generator, dtype=torch.float64)
    y = 100.0 + 7.0 * torch.sin(5 * x[:, 0]) + torch.randn(12, generator=generator, dtype=torch.float64)
    model = fit_surrogate(x, y, num_samples=1, generator=0)
    mean, std = model.leave_one_out()
    kernel, noise = model.posterior.kernel, float(model.posterior.noise_variance.max())
    gram = kernel(x, x).to_dense().detach() if hasattr(kernel, "forward") else kernel.block(x, x)
    for i in range(12):
        keep = [j for j in range(12) if j != i]
        inner = gram[keep][:, keep] + noise * torch.eye(11, dtype=torch.float64)
        weights = torch.linalg.solve(inner, gram[keep, i])
        guess = model.mean + weights @ (model.target[keep] - model.mean)
        spread = (gram[i, i] + noise - weights @ gram[keep, i]).sqrt()
        torch.testing.assert_close(mean[i], model.offset + model.scale * guess)
        torch.testing.assert_close(std[i], model.scale * spread)


def test_predictions_are_in_the_units_of_the_values():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(60, 1, generator=generator, dtype=torch.float64)
    y = 1e3 + 50.0 * torch.sin(4 * x[:, 0])
    mean, std = fit_surrogate(x, y, num_samples=1, generator=0).predict(x)
    assert (mean - y).abs().max() < 2.0
    assert std.max() < 5.0


def test_equal_values_say_nothing_of_the_others(tmp_path):
    """6, 6, 6 were followed by 'expected 6 ± 7.9': the next power of two."""
    campaign = Campaign(pool(), tmp_path / "c.db", maximize=True, seed=1, num_initial=5)
    campaign.tell_many([(trial.id, 6.0) for trial in campaign.ask(5)])
    (asked,) = campaign.ask(1)
    assert asked.expected is None
    assert "all measured values are equal" in asked.why
    campaign.tell(asked.id, 7.0)
    (asked,) = campaign.ask(1)
    assert 5 < asked.expected[0] < 8
    assert asked.why.startswith("expected ")

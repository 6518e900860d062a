"""Plans against counts made by hand, and devices against clocks that the tests turn."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from sggp.cli import main
from sggp.errors import InputError
from sggp.estimator.progress import tell_plan
from sggp.fitting import ModelSettings
from sggp.native.ceilings import Work
from sggp.planning import NAMED, Device, device_named, devices, plan_fit, product_seconds, this_machine
from sggp.planning.costs import communication
from sggp.running import listening

ROUND = Device("round", evaluation=1e9, flops=1e11, flops64=5e10, systems=1e5, memory=1e10, link=1e9)
"""A device whose counts can be made by hand."""


def test_a_product_is_counted_entry_by_entry():
    # an entry: 1 ns and 2·2 flops at 1e11 a second, symmetric; 64 columns: 128 flops
    by_hand = 1000**2 * (0.65 * (1e-9 + 0.04e-9) + 1.28e-9)
    one = product_seconds(replace(ROUND, reached=0.93), 1000, 3, 64)
    assert one == pytest.approx(1000**2 * (0.65 * 1.04e-9 + 1.28e-9 / 0.93))
    assert product_seconds(ROUND, 1000, 3, 64) == pytest.approx(by_hand)
    assert product_seconds(ROUND, 2000, 3, 64) == pytest.approx(4 * by_hand)


def test_devices_share_rows_and_wait_for_a_block():
    four = replace(ROUND, count=4)
    waiting = communication(four, 10_000, 65)
    assert waiting == pytest.approx(10_000 * 65 * 4 * 0.75 / 1e9)
    entries = (
        10_000**2 * (1.04e-9 + 1.3e-9) / 4
    )  # every entry, as blocks off the diagonal are of no symmetric matrix
    assert product_seconds(four, 10_000, 3, 65) == pytest.approx(entries + waiting)
    assert communication(ROUND, 10_000, 65) == 0
    solve = plan_fit(1e5, 5, device=four, passes=9).parts[2]
    assert solve.waiting == pytest.approx(10 * communication(four, 100_000, 65))


def test_what_grows_with_what():
    base, twice = (plan_fit(n, 4, device=ROUND, passes=20) for n in (1e6, 2e6))
    assert twice.parts[2].seconds / base.parts[2].seconds == pytest.approx(4, rel=0.05)
    more = plan_fit(1e6, 4, device=ROUND, passes=40)
    assert more.parts[2].seconds / base.parts[2].seconds == pytest.approx(41 / 21, rel=0.05)
    fewer = plan_fit(1e6, 4, device=ROUND, passes=20, samples=0)
    assert fewer.parts[2].seconds < 0.5 * base.parts[2].seconds
    named = plan_fit(1e6, 4, device=ROUND, passes=20, kernel="rbf")
    assert named.parts[0].seconds < 0.7 * base.parts[0].seconds
    assert plan_fit(1e6, 4, device=ROUND).memory < plan_fit(1e6, 4, device=ROUND, samples=256).memory
    assert not plan_fit(1e8, 3, device=ROUND).fits


@pytest.mark.parametrize(
    ("n", "kind", "solver"),
    [
        (800, "cpu", "Cholesky()"),
        (3000, "cpu", "Cholesky()"),
        (3001, "cpu", "ConjugateGradients()"),
        (12_000, "cuda", "Cholesky()"),
        (1e6, "cuda", "ConjugateGradients()"),
    ],
)
def test_the_solver_is_that_of_the_rule(n, kind, solver):
    plan = plan_fit(n, 4, device=replace(ROUND, kind=kind))
    assert plan.solver.split(", else ")[0] == solver
    assert ("factor" in plan.parts[1].what) == (solver == "Cholesky()")


def test_a_plan_is_a_table_and_plain_values():
    plan = plan_fit(1e6, 10, device="h200:4")
    assert str(plan).startswith("1,000,000 rows x 10, 64 samples, on h200:4 (data sheet")
    values = json.loads(json.dumps(plan.to_dict()))
    assert values["seconds"] == pytest.approx(sum(part["seconds"] for part in values["parts"]))
    assert values["device"]["count"] == 4
    assert "more than the 9 GiB there are" in str(plan_fit(1e8, 3, device=ROUND))
    unknown = plan_fit(1e5, 3, device=replace(ROUND, memory=float("inf"))).to_dict()
    assert json.loads(json.dumps(unknown, allow_nan=False))["device"]["memory"] is None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"device": "h300"}, "here, h200"),
        ({"device": "h200:x"}, "how many"),
        ({"device": "h200:0"}, "at least 1"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": float("nan")}, "n must be"),
        ({"d": 0}, "d must be"),
        ({"kernel": "tanimoto"}, "kernel"),
        ({"passes": "many"}, "passes"),
        ({"n": 1.5}, "n must be an integer of at least 1, got 1.5"),
        ({"passes": 0}, "passes must be positive, got 0"),
        ({"passes": -5}, "passes must be positive, got -5"),
        ({"device": None}, "a name such as"),
    ],
)
def test_what_cannot_be_planned_is_named(arguments, match):
    given = {"n": 1e4, "d": 3, "device": ROUND} | arguments
    with pytest.raises(InputError, match=match):
        plan_fit(given.pop("n"), given.pop("d"), **given)


def test_a_link_is_stated():
    assert device_named("a100:2@5e9") == replace(NAMED["a100"], count=2, link=5e9)
    assert device_named("a100") == NAMED["a100"]
    for wrong in ("a100@", "a100:2@1e-300", "a100:2@-1", "a100@fast", "a100@nan"):
        with pytest.raises(InputError, match="bytes a second"):
            device_named(wrong)


@pytest.mark.parametrize(
    ("rate", "match"),
    [
        ({"flops": 0}, "flops"),
        ({"memory": "80GB"}, "memory"),
        ({"link": -1.0}, "link"),
        ({"evaluation": float("nan")}, "evaluation"),
        ({"count": 0}, "number of devices"),
        ({"kind": "tpu"}, "kind"),
    ],
)
def test_rates_of_a_device_are_positive_numbers(rate, match):
    with pytest.raises(InputError, match=match):
        replace(ROUND, **rate)


def test_this_machine_is_measured_by_a_clock(monkeypatch):
    now = [0.0]

    def works(dtype, size):
        def call():
            now[0] += 0.5 if dtype == torch.float32 else 1.0

        units = {"tile product": 1e9, "matrix product": 2e9, "tile evaluation": 1e7, "exp": 1e6}
        return {name: Work(call, amount, "") for name, amount in units.items()}

    monkeypatch.setattr(devices.ceilings, "works", works)
    monkeypatch.setattr(devices, "_small_systems", lambda: lambda: now.__setitem__(0, now[0] + 0.25))
    found = this_machine(lambda: now[0])
    assert (found.evaluation, found.flops, found.flops64, found.systems) == (2e7, 4e9, 1e9, 2048.0)


def test_this_machine_can_be_measured():
    found = this_machine()
    assert found.evaluation > 1e6
    assert found.flops > found.flops64 / 4
    assert found.systems > 100


def test_a_long_fit_is_planned_only_where_someone_listens(monkeypatch):
    asked, notes = [], []

    def planned(*arguments, **options):
        asked.append(arguments)
        return plan_fit(*arguments, device=ROUND, **options)

    monkeypatch.setattr("sggp.estimator.progress.plan_fit", planned)
    tell_plan(200_000, 3, ModelSettings())
    assert asked == []
    with listening(notes.append):
        tell_plan(9_000, 3, ModelSettings())
        tell_plan(200_000, 3, ModelSettings(kernel="tanimoto"))
        tell_plan(200_000, 3, ModelSettings(optimizer=None))
        assert asked == []
        tell_plan(200_000, 3, ModelSettings())
    assert asked == [(200_000, 3)]
    assert [step.phase for step in notes] == ["plan"]
    assert "200,000 rows x 3" in notes[0].note


def test_the_command(capsys):
    assert main(["plan", "--n", "1e6", "--d", "10", "--samples", "16", "--device", "h200:4", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["job"]["rows"] == 1_000_000
    assert main(["plan", "--n", "1e6", "--d", "10", "--device", "laptop"]) == 0
    assert "solver           ConjugateGradients()" in capsys.readouterr().out

"""What the figures of a solve show."""

from __future__ import annotations

import pytest
import torch

from sggp.errors import InputError
from sggp.plotting import plot_convergence, to_png
from sggp.solvers.solution import Record, Solution, Status

pytest.importorskip("matplotlib")


def solution(*worst: float, kind: str = "recursive") -> Solution:
    history = [
        Record(
            epochs=2.0 * i,
            seconds=0.5 * i,
            residual=torch.tensor([w / 10, w], dtype=torch.float64),
            kind=kind,
        )
        for i, w in enumerate(worst)
    ]
    residual = torch.tensor([worst[-1] / 10, worst[-1]] if worst else [1.0, 1.0], dtype=torch.float64)
    return Solution(
        x=torch.zeros(3, 2),
        status=(Status.CONVERGED,) * 2,
        residual=residual,
        residual_kind="true",
        tolerance=torch.ones(2),
        history=tuple(history),
    )


@pytest.mark.parametrize(("against", "step"), [("seconds", 0.5), ("epochs", 2.0)])
def test_convergence_draws_the_worst_column_of_each_solve(against, step):
    solutions = {"first": solution(1.0, 0.1, 0.01), "second": solution(1.0, 0.5, kind="true")}
    axes = plot_convergence(solutions, against=against)
    first, first_true, second, second_true = axes.get_lines()
    assert first.get_ydata().tolist() == pytest.approx([1.0, 0.1, 0.01])
    assert first.get_xdata().tolist() == [0.0, step, 2 * step]
    assert len(first_true.get_ydata()) == 0
    assert second_true.get_ydata().tolist() == second.get_ydata().tolist() == [1.0, 0.5]
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]
    assert to_png(axes.figure).startswith(b"\x89PNG")


def test_convergence_refuses_what_it_cannot_draw():
    with pytest.raises(InputError, match="none"):
        plot_convergence({})
    with pytest.raises(InputError, match="second"):
        plot_convergence({"first": solution(1.0), "second": solution()})
    with pytest.raises(InputError, match="against"):
        plot_convergence({"first": solution(1.0)}, against="iterations")

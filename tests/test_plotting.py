"""What the figures of a solve and of a fit show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.errors import InputError, ShapeError
from sggp.hyperparameters import fit_exact, fit_nearest_neighbour, named_kernel
from sggp.hyperparameters.exact.subset import fit_subset
from sggp.plotting import new_figure, plot_convergence, plot_trace, to_png
from sggp.solvers.core.solution import Record, Solution, Status

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


RECORDS = [
    {
        "step": 5,
        "value": -1.5,
        "seconds": 0.1,
        "values": {"scale": 2.0, "base.lengthscale": [1.0, 3.0], "mean": 0.5},
    },
    {
        "step": 10,
        "value": None,
        "seconds": 0.4,
        "values": {"scale": 1.0, "base.lengthscale": [2.0, 4.0], "mean": -1.0},
    },
    {
        "step": 20,
        "value": -0.5,
        "seconds": 0.9,
        "values": {"scale": 0.5, "base.lengthscale": [4.0, 5.0], "mean": 0.0},
    },
]


@pytest.mark.parametrize(("against", "work"), [("step", [5, 10, 20]), ("seconds", [0.1, 0.4, 0.9])])
def test_trace_draws_the_value_and_every_hyperparameter(against, work):
    top, bottom = plot_trace(RECORDS, against=against)
    (value,) = top.get_lines()
    assert value.get_xdata().tolist() == pytest.approx(work)
    np.testing.assert_array_equal(value.get_ydata(), [-1.5, np.nan, -0.5])
    scale, first, second = bottom.get_lines()
    assert scale.get_ydata().tolist() == [2.0, 1.0, 0.5]
    assert first.get_ydata().tolist() == [1.0, 2.0, 4.0]
    assert second.get_ydata().tolist() == [3.0, 4.0, 5.0]
    assert first.get_color() == second.get_color() != scale.get_color()
    assert bottom.get_yscale() == "log"
    (twin,) = (axes for axes in top.figure.axes if axes not in (top, bottom))
    assert [line.get_ydata().tolist() for line in twin.get_lines()] == [[0.5, -1.0, 0.0]]
    labels = [text.get_text() for text in bottom.get_legend().get_texts()]
    assert labels == ["scale", "base.lengthscale (2)", "mean"]
    assert to_png(top.figure).startswith(b"\x89PNG")


def test_traces_of_all_fits_are_drawn():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(60, 2, generator=g, dtype=torch.float64)
    y = torch.sin(4 * x[:, 0]) + 0.1 * torch.randn(60, generator=g, dtype=torch.float64)
    kernel = named_kernel("rbf", 2)
    fits = [
        fit_exact(kernel, x, y, max_iterations=5),
        fit_nearest_neighbour(kernel, x, y, max_steps=12, generator=0),
        fit_subset(kernel, x, y, subsets=2, subset_rows=20, max_iterations=5, generator=0),
    ]

    class Estimator:
        trace_ = fits[0].trace

    for fit in [*fits, Estimator()]:
        top, bottom = plot_trace(fit)
        records = getattr(fit, "trace_", None) or fit.trace
        assert top.get_lines()[0].get_ydata().tolist() == [record["value"] for record in records]
        names = [text.get_text() for text in bottom.get_legend().get_texts()]
        assert {"outputscale", "base_kernel.lengthscale (2)", "noise_variance"} <= set(names)


def test_trace_draws_into_given_axes_and_refuses_what_it_cannot_draw():
    axes = new_figure().subplots(2)
    assert plot_trace(RECORDS, axes).tolist() == list(axes)
    with pytest.raises(InputError, match="empty"):
        plot_trace([])
    with pytest.raises(InputError, match="against"):
        plot_trace(RECORDS, against="epochs")
    with pytest.raises(ShapeError, match="two axes"):
        plot_trace(RECORDS, new_figure().subplots(1, 3))

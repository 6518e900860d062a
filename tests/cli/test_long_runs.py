"""`sggp fit` on a signal: what was found is kept, and the exit code says what happened."""

from __future__ import annotations

import io
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from sggp.cli import main
from sggp.cli import model as command
from sggp.errors import Stopped
from sggp.estimator import GPRegressor, regressor
from sggp.running import stop_asked
from sggp.solvers import Status

OPTIONS = ("--target", "y", "--kernel", "matern52")


def run(*argv):
    return main([str(part) for part in argv])


@pytest.fixture
def table(tmp_path):
    x = np.linspace(0, 1, 40)
    path = tmp_path / "table.csv"
    path.write_text("x,y\n" + "".join(f"{a},{np.sin(6 * a)}\n" for a in x))
    return path


def fitted_then(monkeypatch, what):
    """`fit` does `what` at its end."""
    fit = GPRegressor.fit

    def then(self, *arguments, **named):
        fit(self, *arguments, **named)
        what()
        return self

    monkeypatch.setattr(command.GPRegressor, "fit", then)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_the_model(number, code, table, tmp_path, capsys, monkeypatch, request):
    fitted_then(monkeypatch, lambda: os.kill(os.getpid(), number))
    # a shell that starts the tests in the background has SIGINT ignored, and then it stays so
    given = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(number, given))
    before = signal.getsignal(number)
    assert run("fit", table, *OPTIONS, "--out", tmp_path / "m.gp") == code
    assert signal.getsignal(number) is before
    assert f"stopped by {signal.Signals(number).name}: Solution(" in capsys.readouterr().err
    assert GPRegressor.load(tmp_path / "m.gp").solution_.converged


@pytest.mark.parametrize("early", [False, True])
def test_a_signal_while_files_are_written_lets_them_be_finished(early, table, tmp_path, monkeypatch, request):
    given = signal.signal(signal.SIGTERM, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, given))
    number = signal.SIGTERM
    heard = []

    def before(*arguments):
        if not early:
            os.kill(os.getpid(), number)
        heard.append(stop_asked())
        return save(*arguments)

    save = command.save_model
    monkeypatch.setattr(command, "save_model", before)
    if early:
        fitted_then(monkeypatch, lambda: os.kill(os.getpid(), number))
    files = tmp_path / "m.gp", tmp_path / "m.html"
    assert run("fit", table, *OPTIONS, "--out", files[0], "--report", files[1]) == 143
    assert heard == [None]  # or the figures of a report would be those of solves that were cut short
    assert GPRegressor.load(files[0]).solution_.converged
    assert "</html>" in files[1].read_text()
    assert signal.getsignal(number) is signal.default_int_handler


def test_a_stop_before_there_was_a_model_writes_none(table, tmp_path, capsys, monkeypatch):
    def stop():
        os.kill(os.getpid(), signal.SIGTERM)
        raise Stopped("stopped by SIGTERM while hyperparameters were learnt: nothing was solved yet.")

    fitted_then(monkeypatch, stop)
    assert run("fit", table, *OPTIONS, "--out", tmp_path / "m.gp") == 143
    assert "nothing was solved yet" in capsys.readouterr().err
    assert not (tmp_path / "m.gp").exists()


def test_a_log_holds_the_steps(table, tmp_path, capsys):
    log = tmp_path / "run.jsonl"
    assert run("fit", table, *OPTIONS, "--out", tmp_path / "m.gp", "--log", log) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["phase"] for line in lines} == {"hyperparameters", "noise", "solve"}
    assert len(capsys.readouterr().err.splitlines()) == 1  # a short run draws nothing


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stderr", [Gone(), None])
def test_nobody_who_listens_costs_no_model(stderr, table, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", stderr)
    assert run("fit", table, *OPTIONS, "--out", tmp_path / "m.gp") == 0
    assert (tmp_path / "m.gp").exists()
    assert run("fit", table, *OPTIONS, "--out", tmp_path / "missing" / "m.gp") == 2


def test_predictions_of_a_model_that_was_stopped_say_so(table, tmp_path, capsys, monkeypatch):
    def spoil(self, *arguments, **named):
        fit(self, *arguments, **named)
        solution = replace(self.solution_, status=(Status.BUDGET_SPENT,) * len(self.solution_.status))
        self.posterior_.solution = solution
        return self

    fit = GPRegressor.fit
    monkeypatch.setattr(command.GPRegressor, "fit", spoil)
    run("fit", table, *OPTIONS, "--out", tmp_path / "m.gp")
    capsys.readouterr()
    assert run("predict", tmp_path / "m.gp", table, "--out", tmp_path / "p.csv") == 0
    assert "did not reach its tolerance" in capsys.readouterr().err


@pytest.mark.filterwarnings("always::sggp.errors.NotConverged")
def test_a_budget_keeps_the_best_and_says_so(table, tmp_path, capsys):
    assert run("fit", table, *OPTIONS, "--out", tmp_path / "m.gp", "--max-seconds", 1e-9) == 0
    assert "max_seconds=1e-09 cut short: hyperparameters." in capsys.readouterr().err
    assert GPRegressor.load(tmp_path / "m.gp").cut_short_ == ("hyperparameters",)


def test_the_same_command_goes_on_from_its_checkpoint(table, tmp_path, capsys, monkeypatch):
    arguments = ("fit", table, *OPTIONS, "--checkpoint", tmp_path / "c")
    assert run(*arguments, "--out", tmp_path / "1.gp") == 0
    monkeypatch.setattr(regressor, "fit_weighted", lambda *_: pytest.fail("learnt again"))
    assert run(*arguments, "--out", tmp_path / "2.gp") == 0
    one, two = (GPRegressor.load(tmp_path / name) for name in ("1.gp", "2.gp"))
    assert (one.predict([[0.3]]) == two.predict([[0.3]])).all()
    # never in the place of another file
    content = table.read_bytes()
    capsys.readouterr()
    assert run("fit", table, *OPTIONS, "--out", tmp_path / "3.gp", "--checkpoint", table) == 2
    (tmp_path / "mine.txt").write_text("mine")
    assert run("fit", table, *OPTIONS, "--out", tmp_path / "3.gp", "--checkpoint", tmp_path / "mine.txt") == 2
    assert "it is read as an input" in (told := capsys.readouterr().err)
    assert "not a file written by sggp" in told
    assert table.read_bytes() == content
    assert (tmp_path / "mine.txt").read_text() == "mine"

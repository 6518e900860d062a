"""What is written of steps: for people, and as JSON lines."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import pytest

from sggp.errors import DataFileError, InputError, SggpWarning
from sggp.running import JsonLines, ProgressLines, Step, tell
from sggp.running.lines import shown_seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


def written(stream, steps):
    """What is written of (seconds, step), by a clock that nobody waits for."""
    now = [0.0]
    lines = ProgressLines(stream, clock=lambda: now[0])
    for now[0], step in steps:
        lines(step)
    lines.close()
    return stream.getvalue()


def solve(number, residual, wanted=1e-3):
    return Step("solve", number, None, {"residual": residual, "tolerance": wanted, "epochs": number})


def test_a_log_gets_lines_at_growing_intervals():
    text = written(io.StringIO(), [(t, Step("hyperparameters", t, 4000)) for t in range(1, 4001)])
    lines = text.splitlines()
    assert "\r" not in text
    assert "\x1b" not in text
    assert lines[0] == "hyperparameters: 5 of 4,000, 5.0 s, about 1 h 07 min left in this phase"
    at = [int(line.split()[1].replace(",", "")) for line in lines]
    gaps = [b - a for a, b in pairwise(at)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 600
    assert len(lines) < 20


def test_nothing_is_written_of_a_short_run_but_notes():
    steps = [(0.1, solve(1, 0.5)), (2.0, solve(2, 0.1)), (3.0, Step("solve", note="converged"))]
    assert written(io.StringIO(), steps) == "solve: converged\n"


def test_a_terminal_has_one_line_rewritten_and_one_for_each_long_phase():
    steps = [(0.05 * k, Step("preconditioner, low rank", k, 200)) for k in range(10)]
    steps += [(0.5 + 0.05 * k, solve(k, 0.5**k)) for k in range(1, 40)]
    text = written(Terminal(), steps)
    assert text.count("\n") == 1  # the first phase took less than a second
    assert text.endswith("\n")
    assert len(text.split("\r")) < 20  # not one drawing a step
    last = text.split("\x1b[2K")[-1]
    assert last.startswith("solve: step 39, residual 1.8e-12 (wanted 1.0e-03)")


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        # a decade a second, and three are missing
        ([(t, solve(t, 10.0**-t, 1e-8)) for t in range(6)], "about 3.0 s left"),
        ([(t, solve(t, 10.0**-t, 1e-3)) for t in range(6)], "about 0.0 s left"),
        ([(t, solve(t, 1.0)) for t in range(6)], None),  # does not fall
        ([(t, solve(t, float("nan"))) for t in range(6)], None),
        ([(t, Step("hyperparameters", 10 * t, 100)) for t in range(6)], "about 5.0 s left"),
        # another fit begins: its own rate counts
        (
            [(t, Step("hyperparameters", [90, 100, 10, 20, 30, 40][t], 100)) for t in range(6)],
            "about 6.0 s left",
        ),
    ],
)
def test_time_left(steps, left):
    line = written(io.StringIO(), [(t, step) for t, step in steps]).splitlines()[-1]
    assert ("left" not in line) if left is None else (left in line)


def test_durations():
    shown = [shown_seconds(t) for t in (0.44, 9.96, 59.6, 185, 7800)]
    assert shown == ["0.4 s", "10 s", "1 min 00 s", "3 min 05 s", "2 h 10 min"]


def test_json_lines_are_added_one_a_step(tmp_path):
    path = tmp_path / "run.jsonl"
    for _ in range(2):
        with JsonLines(path):
            tell("solve", 1, residual=float("inf"), epochs=1.5)
            assert len(path.read_text().splitlines()) % 2 == 1  # on disk before the next step
            tell("noise", note='as "given"')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4
    assert lines[0]["residual"] is None
    assert lines[0]["epochs"] == 1.5
    assert lines[0]["memory"] > 2**20
    assert lines[0]["seconds"] >= 0
    assert lines[0]["time"] > 1.7e9
    assert [line["phase"] for line in lines[:2]] == ["solve", "noise"]
    assert lines[1]["note"] == 'as "given"'


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DataFileError, match="missing"), JsonLines(tmp_path / "missing" / "run.jsonl"):
        pass
    with pytest.raises(InputError, match="path"):
        JsonLines(3)


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


class GoneTerminal(Gone):
    def isatty(self):
        return True


class OnlyWrites:
    """What some consoles put in the place of standard error."""

    def write(self, text):
        assert text


@pytest.mark.parametrize("stream", [Gone(), GoneTerminal(), io.StringIO(), OnlyWrites(), None])
def test_a_stream_that_is_gone_ends_no_run(stream):
    if type(stream) is io.StringIO:
        stream.close()
    now = [0.0]
    lines = ProgressLines(stream, clock=lambda: now[0])
    for now[0] in (0.0, 6.0, 60.0):
        lines(solve(now[0], 0.1))
    lines(Step("solve", note="done"))
    lines.close()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no full disk to write to")
def test_a_full_disk_costs_lines_of_a_log_alone():
    with JsonLines("/dev/full"):
        with pytest.warns(SggpWarning, match="/dev/full: No space left on device. The run goes on"):
            tell("solve", 1)
        tell("solve", 2)  # said once


def test_a_line_that_was_cut_spoils_no_other(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"phase": "solve"}\n{"pha')
    with JsonLines(path):
        tell("noise", 1)
    lines = path.read_text().splitlines()
    assert [len(lines), lines[1], json.loads(lines[2])["phase"]] == [3, '{"pha', "noise"]

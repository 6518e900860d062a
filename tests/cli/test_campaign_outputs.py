"""What the commands of a campaign write: never over its library or over untold results; any terminal will do."""

from __future__ import annotations

import io
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("rdkit", reason="the extra molecules is not installed")

from sggp.bayesopt import Trial
from sggp.bayesopt.outcomes import Objective
from sggp.bayesopt.trials import Measurement
from sggp.cli import main
from sggp.cli.campaign.figures import progress
from tests.cli.commands import ALCOHOLS, LIBRARY, read, refused, write


def run(*argv: object) -> int:
    return main([str(part) for part in argv])


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return write(tmp_path / "l.csv", ["id", "smiles"], [[f"L{i}", s] for i, s in enumerate(LIBRARY)])


@pytest.fixture
def store(tmp_path: Path, library: Path) -> Path:
    store = tmp_path / "c.db"
    start = ["--library", library, "--maximize", "--name", "y", "--seed", 1]
    assert run("campaign", "init", store, *start) == 0
    return store


class TestInputs:
    @pytest.mark.parametrize("command", ["pending", "export", "ask", "report"])
    def test_the_library_of_a_campaign_is_never_replaced(self, store, library, capsys, command):
        before = library.read_bytes()
        for name in ("l.csv", "L.CSV", "l.csv.gz"):
            out = library.with_name(name)
            said = refused(capsys, "campaign", command, store, "--out", out)
            assert "read as an input" in said or ("writes no .gz files" in said and out.suffix == ".gz")
        assert library.read_bytes() == before

    @pytest.mark.parametrize("command", ["pending", "export", "ask", "report"])
    def test_nor_are_lists_of_reagents(self, tmp_path, capsys, command):
        (tmp_path / "a.smi").write_text("OC(=O)C A1\nOC(=O)CC A2\n")
        (tmp_path / "b.smi").write_text("NC B1\nNCC B2\n")
        entry = {
            "smarts": "[C:1](=[O:2])[OH].[NH2:3][C:4]>>[C:1](=[O:2])[N:3][C:4]",
            "reagents": ["a.smi", "b.smi"],
        }
        (tmp_path / "r.json").write_text(json.dumps(entry))
        store = tmp_path / "r.db"
        assert (
            run("campaign", "init", store, "--reaction", tmp_path / "r.json", "--maximize", "--seed", 1) == 0
        )
        for name in ("a.smi", "b.smi", "r.json"):
            out = tmp_path / name
            before = out.read_bytes()
            assert "read as an input" in refused(capsys, "campaign", command, store, "--out", out)
            assert out.read_bytes() == before


class TestFilledBatches:
    @pytest.fixture
    def filled(self, store: Path, tmp_path: Path) -> Path:
        """A batch of two, filled in and not told."""
        batch = tmp_path / "batch.csv"
        assert run("campaign", "ask", store, "-q", 2, "--out", batch) == 0
        rows = read(batch)
        rows[0]["y"], rows[1]["reason"] = "1.5", "did not dissolve"
        return write(batch, list(rows[0]), [list(row.values()) for row in rows])

    @pytest.mark.parametrize("command", [("ask", "-q", 2), ("pending",), ("export",)])
    def test_results_that_were_not_told_are_kept(self, store, filled, capsys, command):
        before = filled.read_bytes()
        said = refused(capsys, "campaign", command[0], store, *command[1:], "--out", filled)
        assert "results that" in said
        assert f"tell {store} --from {filled}" in said
        assert filled.read_bytes() == before
        assert run("campaign", "tell", store, "--from", filled) == 0  # once told it may go
        assert run("campaign", command[0], store, *command[1:], "--out", filled) == 0

    def test_nothing_was_asked_for(self, store, filled, capsys):
        refused(capsys, "campaign", "ask", store, "-q", 2, "--out", filled)
        assert run("campaign", "pending", store, "--json") == 0
        assert len(json.loads(capsys.readouterr().out)) == 2

    def test_a_corrected_value_and_a_batch_of_another_campaign_are_kept_too(
        self, store, filled, tmp_path, capsys
    ):
        assert run("campaign", "tell", store, "--from", filled) == 0
        rows = read(filled)
        rows[0]["y"] = "1.75"
        write(filled, list(rows[0]), [list(row.values()) for row in rows])
        assert "results that" in refused(capsys, "campaign", "pending", store, "--out", filled)
        other = write(tmp_path / "other.csv", ["trial", "smiles", "y"], [[70, "CCO", 3.5]])
        assert "results that" in refused(capsys, "campaign", "pending", store, "--out", other)

    @pytest.mark.parametrize("text", ["id,y\nL3,5\n", "trial,y\n1,1.234\n2,950\n", "trial,y\n1,~5\n"])
    def test_results_in_doubt_are_kept(self, store, tmp_path, capsys, text):
        assert run("campaign", "ask", store, "-q", 2) == 0
        lab = tmp_path / "lab.csv"
        lab.write_text(text)
        assert "results that" in refused(capsys, "campaign", "pending", store, "--out", lab)
        assert lab.read_text() == text

    def test_an_empty_batch_of_another_campaign_is_replaced(self, store, tmp_path):
        other = write(tmp_path / "other.csv", ["trial", "smiles", "y", "reason"], [[70, "CCO", "", ""]])
        assert run("campaign", "ask", store, "-q", 2, "--out", other) == 0
        assert len(read(other)) == 2

    def test_other_files_and_batches_without_results_are_replaced(self, store, tmp_path, capsys):
        batch, table = tmp_path / "b.csv", write(tmp_path / "t.csv", ["a", "b"], [[1, 2]])
        assert run("campaign", "ask", store, "-q", 2, "--out", batch) == 0
        for out in (batch, table):
            assert run("campaign", "pending", store, "--out", out) == 0
            assert len(read(out)) == 2


class TestTerminals:
    @pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
    def test_a_terminal_without_unicode_shows_every_trial(self, store, monkeypatch, encoding):
        def said(*argv: object) -> str:
            raw = io.BytesIO()
            stream = io.TextIOWrapper(raw, encoding=encoding)
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", stream)
                assert run(*argv) == 0
            stream.flush()
            return raw.getvalue().decode(encoding)

        for smiles in ALCOHOLS:
            assert run("campaign", "attach", store, smiles, smiles.count("C")) == 0
        table = said("campaign", "ask", store, "-q", 2)  # "expected 7.1 ± 0.2" is not ASCII
        assert table.count("number") == 2
        assert len(json.loads(said("campaign", "ask", store, "-q", 2, "--json"))) == 2
        assert run("campaign", "tell", store, 11, 3) == 0
        assert run("campaign", "fail", store, 12, "--reason", "日本") == 0
        assert "\\u65e5" in said("campaign", "results", store)  # and not an error
        assert json.loads(said("campaign", "results", store, "--json"))[11]["reason"] == "日本"


def test_what_has_no_outlook_has_a_status_and_a_report(store, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    for smiles in ("CCCCCCCCCCO", "CCCCCCCCCCCO"):  # of no molecule of the library
        assert run("campaign", "attach", store, smiles, 3) == 0
    capsys.readouterr()
    assert run("campaign", "status", store, "--outlook") == 0
    said = capsys.readouterr()
    assert "2 measured" in said.out
    assert "note: no outlook: nothing of the pool has been measured" in said.err
    assert run("campaign", "report", store, "--out", tmp_path / "r.html", "--json") == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(tmp_path / "r.html")
    assert "The rest of the library" in (tmp_path / "r.html").read_text()


def test_what_turns_text_around_or_commands_a_terminal_is_written_out(store, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    assert run("campaign", "ask", store, "-q", 2) == 0
    assert run("campaign", "fail", store, 1, "--reason", "\x1b[31m \u202elost\u2066 <b>") == 0
    assert run("campaign", "tell", store, 2, 5) == 0
    assert run("campaign", "report", store, "--out", tmp_path / "r.html") == 0
    assert run("campaign", "export", store, "--out", tmp_path / "r.csv") == 0
    capsys.readouterr()
    assert run("campaign", "results", store) == 0
    said = capsys.readouterr().out
    for text in (said, (tmp_path / "r.html").read_text(), (tmp_path / "r.csv").read_text()):
        assert not set(text) & {"\x1b", "\u202e", "\u2066"}
        assert "\\x1b[31m \\u202elost\\u2066" in text


def test_a_report_shows_no_outcome_in_the_place_of_another(tmp_path, library):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    store = tmp_path / "two.db"
    wanted = ["--objective", "first:max", "--objective", "second:min"]
    assert run("campaign", "init", store, "--library", library, *wanted, "--seed", 1) == 0
    assert run("campaign", "ask", store, "-q", 2) == 0
    assert run("campaign", "tell", store, 1, "first=7", "second=3") == 0
    assert run("campaign", "tell", store, 2, "second=54321") == 0
    assert run("campaign", "report", store, "--out", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    batch = page[page.index("<h2>Batch 1") : page.index("<h2>All trials")]
    assert "trial 1: 7" in batch
    assert "trial 2: measured" in batch
    assert "54321" not in batch


@pytest.mark.parametrize("batches", [5, 60, 400])
def test_the_numbers_of_batches_do_not_run_into_each_other(batches: int) -> None:
    """Sixty batches of one were "101112131415" above the drawing of a campaign."""
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    trials = [
        Trial(i, None, None, None, "measured", float(i), None, max(0, i - 3), "asked", "", "")
        for i in range(batches + 4)
    ]
    figure = progress(trials, Objective("y", maximize=True))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert figure.axes[0].texts[0].get_text() == "before"
    assert len(boxes) >= min(batches, 20)
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles that drawings will have, as a list that grows."""
    from matplotlib.axes import Axes

    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: titles.append(text))
    return titles


def test_bounds_count_in_no_score_of_a_report(tmp_path, monkeypatch):
    """`>1.2` was compared with its pseudo-value, as if that had been measured, and told to be predicted well."""
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    store, titles = tmp_path / "c.db", scored(monkeypatch)
    assert run("campaign", "init", store, "--bound", "a=0:1", "--maximize", "--seed", 1) == 0
    rows = [[i / 20, f">{1.2}" if i > 13 else 2.0 * i / 20 + 0.01 * (i * 7 % 5)] for i in range(20)]
    told = write(tmp_path / "told.csv", ["a", "value"], rows)
    assert run("campaign", "attach", store, "--from", told) == 0
    assert run("campaign", "ask", store, "-q", 7) == 0
    for number in range(21, 28):
        assert run("campaign", "tell", store, number, ">1.9" if number > 25 else 1.5 + number / 100) == 0
    assert run("campaign", "report", store, "--out", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    left, last = (page[page.index(f"<h2>{head}") :] for head in ("How good the model is", "The last batch"))
    assert run("campaign", "report", store, "--out", tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").read_text()[page.index("Best found") :] == page[
        page.index("Best found") :
    ]
    assert "8 of the 27 values are bounds" in left[: left.index("<h2>", 1)]
    assert "of 5 values lie within" in last
    assert "2 of the 7 values are bounds" in last[: last.index("<h2>", 1)]
    assert [title.split(", ")[1] for title in titles if title.startswith("R²")][:2] == ["n = 19", "n = 5"]


def test_where_all_are_bounds_a_report_scores_nothing(store, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    for smiles, value in zip(ALCOHOLS[:6], ("<1", "<2", "<3", "<2", "<1", "<4"), strict=True):
        assert run("campaign", "attach", store, smiles, value) == 0
    assert run("campaign", "report", store, "--out", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    assert "All 6 values are bounds" in page
    assert "to beat the best measured" not in page  # which is not known


@pytest.mark.parametrize("maximize", [True, False])
def test_the_best_so_far_is_no_bound_that_guarantees_nothing(maximize: bool) -> None:
    """Where larger is better `<9` was drawn as the best value so far, 9."""
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    values = ["<9", "2", ">5", "4", "7", "<8"] if maximize else [">-9", "-2", "<-5", "-4", "-7", ">-8"]
    measured = [Measurement.parse(text) for text in values]
    trials = [
        Trial(i, None, None, None, "measured", m.value, None, 0, "asked", "", "", values={"y": m})
        for i, m in enumerate(measured, start=1)
    ]
    axes = progress(trials, Objective("y", maximize)).axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "best so far"]
    best = [abs(value) for value in line.get_ydata()]
    assert best[0] != best[0]
    assert best[1:] == [2, 5, 5, 7, 7]
    assert {"a bound (>)", "a bound (<)"} <= {line.get_label() for line in axes.lines}

"""The report of a campaign in a real browser: drawings are drawn, numbers are there, nothing is complained of."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sggp.cli import main
from tests.cli.commands import read, write

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>addEventListener("load", () => { const all = [...document.images];
document.body.dataset.drawn = all.filter(i => i.naturalWidth > 0 && i.alt).length;
document.body.dataset.images = all.length; });</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_the_page_shows_its_drawings_and_numbers(tmp_path: Path, files: dict[str, Path]) -> None:
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    store, batch, page = tmp_path / "c.db", tmp_path / "b.csv", tmp_path / "r.html"
    start = ["--library", files["l"], "--measured", files["m"], "--maximize", "--name", "activity"]
    start += ["--unit", "nM", "--seed", 1]

    def run(*words: object) -> None:
        assert main([str(word) for word in words]) == 0

    run("campaign", "init", store, *start)
    run("campaign", "ask", store, "-q", 5, "--out", batch)
    rows = read(batch)
    for number, row in enumerate(rows[:4]):
        row["activity"] = str(2.125 + number)
    rows[4]["reason"] = "lost <at> the weighing"
    told = write(tmp_path / "told.csv", list(rows[0]), [list(row.values()) for row in rows])
    run("campaign", "tell", store, "--from", told)
    run("campaign", "report", store, "--out", page)

    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    images, drawn = (int(re.findall(rf'data-{name}="(\d+)"', done.stdout)[0]) for name in ("images", "drawn"))
    assert images == drawn
    assert drawn >= 12 + 5 + 3  # the best, the batch, the plots; each with words for those who do not see it
    text = html.unescape(re.sub(r"<[^>]+>", " ", done.stdout))
    assert "5.125 nM" in text
    assert "lost <at> the weighing" in text
    assert "with probability" in text  # is it worth going on
    for heading in (
        "What this is",
        "Best found",
        "Progress",
        "Is it worth going on?",
        "How good the model is",
    ):
        assert heading in text
    assert 'scope="col"' in done.stdout
    assert 'scope="row"' in done.stdout

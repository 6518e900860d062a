"""Nothing written for readers may rot: README blocks, the commands it names, and every example at its quick size."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from tests.scripts import ROOT, Scripts

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.py") if not path.name.startswith("_"))
EXTRA_OF = {
    "ax": "ax",
    "rdkit": "rdkit",
    "sggp.molecules": "rdkit",
    "botorch": "botorch",
    "matplotlib": "matplotlib",
}


def blocks(page: Path, languages: str) -> list[str]:
    return re.findall(rf"^```(?:{languages})\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def python_blocks() -> list[object]:
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{i}")
        for page in PAGES
        for i, block in enumerate(blocks(page, "python"))
    ]


def commands() -> list[object]:
    found = []
    for page in PAGES:
        for block in blocks(page, "console|bash|shell"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["sggp"]:
                    found.append(pytest.param(words, id=f"{page.relative_to(ROOT)}-{' '.join(words[:3])}"))
    return found


def need_extras_of(code: str) -> None:
    for name, module in EXTRA_OF.items():
        if re.search(rf"^\s*(?:from|import) {re.escape(name)}\b", code, flags=re.M):
            pytest.importorskip(module)
    if "sample_hyperparameters" in code:
        pytest.importorskip("pyro")


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert [p for p in pictures if not p.startswith("http") and not (ROOT / p).is_file()] == []


def test_every_page_is_in_the_navigation_and_every_example_among_the_tutorials() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    listed = re.findall(r": (\S+\.md)$", navigation, flags=re.M)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[1:])
    overview = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert sorted({*re.findall(r"\]\((\w+\.md)\)", overview), "index.md"}) == sorted(listed)
    tutorials = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert [str(e.relative_to(ROOT)) for e in EXAMPLES if f"`{e.relative_to(ROOT)}`" not in tutorials] == []


def test_every_room_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    there = {path.stem for path in (ROOT / "sggp").glob("*.py")} | {
        path.parent.name for path in (ROOT / "sggp").glob("*/__init__.py")
    }
    internal = {
        "__init__",
        "arrays",
        "autograd",
        "checks",
        "cli",
        "files",
        "lazy",
        "linalg",
        "native",
        "persistence",
    }
    internal |= {"typing", "__main__"}
    assert sorted(room for room in there - internal if f"::: sggp.{room}" not in text) == []


@pytest.mark.parametrize("code", python_blocks())
def test_python_blocks_run(code: str, scripts: Scripts, tmp_path: Path) -> None:
    need_extras_of(code)
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    done = scripts.run(script, cwd=tmp_path, strict=True, short=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", commands())
def test_commands_and_options_exist(words: list[str]) -> None:
    pytest.importorskip("typer", reason="the extra cli is not installed")
    from typer.testing import CliRunner

    from sggp.cli.app import build

    names = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
    wide = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = CliRunner().invoke(build(), [*names, "--help"], env=wide)
    assert done.exit_code == 0, done.output
    options = [word for word in words if word.startswith("-")]
    assert [option for option in options if option not in done.output] == []


@pytest.mark.parametrize("example", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in EXAMPLES])
def test_examples_run_at_their_quick_size(example: Path, scripts: Scripts, tmp_path: Path) -> None:
    need_extras_of(example.read_text(encoding="utf-8"))
    done = scripts.run(example, "--quick", cwd=tmp_path, strict=True, short=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "an example shows its result"


def test_an_example_without_its_data_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rdkit")
    monkeypatch.delenv("SGGP_DATA_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["known_library.py", "tyk2"])
    runpy.run_path(str(ROOT / "examples" / "molecules" / "known_library.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "nothing was run" in said
    assert "SGGP_DATA_DIR is not set" in said

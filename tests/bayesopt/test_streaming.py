"""Batches out of files that are read once, against the same batch out of a pool that is held in memory."""

from __future__ import annotations

import gzip
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit", reason="the extra molecules is not installed")

from sggp.bayesopt import Pool, fit_surrogate
from sggp.bayesopt.rules import make_rule
from sggp.bayesopt.rules.ei import log_gain
from sggp.bayesopt.streaming import LibrarySearch, StreamProgress, stream_seed, suggest_from_files
from sggp.bayesopt.streaming.shards import STREAM_RULES
from sggp.bayesopt.streaming.shortlist import Frontier, Molecule, Shortlist, skyband
from sggp.errors import DataFileError, InputError
from sggp.molecules import FingerprintTable, SmilesFingerprinter
from sggp.parallel import Workers, entered

FIRST = ["C", "CC", "CCC", "N", "O", "c1ccccc1", "C1CC1", "CC(C)", "F", "Cl", "C[C@H](F)", "C[C@@H](F)"]
LAST = ["CO", "CN", "CCO", "C(=O)O", "C(=O)N", "CCl", "C#N", "CCCC", "c1ccncc1", "CS"]
FINGERPRINT = SmilesFingerprinter(fp_size=64)
Q = 4


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """120 molecules, 12 of them pairs of equal fingerprints, then 30 of them again in another form."""
    names = [first + last for last in LAST for first in FIRST]
    return names + [f"[{name[0]}H3]{name[1:]}" if name.startswith("CC") else name for name in names[::4]]


@pytest.fixture(scope="module")
def table(rows) -> FingerprintTable:
    return FingerprintTable.from_smiles(rows, FINGERPRINT, on_duplicate="drop")


@pytest.fixture(scope="module")
def posterior(table):
    known = list(range(0, len(table), 6))
    values = torch.tensor([name.count("O") - 0.1 * len(name) for name in table.smiles])
    return fit_surrogate(table[known], values[known], num_samples=64, generator=1).posterior


@pytest.fixture
def files(tmp_path, rows) -> list[Path]:
    """The rows in three files of 50, one packed, with ids; the second has lines that cannot be used."""
    out = []
    for i in range(3):
        lines = [f"{name} Z{50 * i + j}\n" for j, name in enumerate(rows[50 * i : 50 * i + 50])]
        if i == 1:
            lines[10:10] = ["C1CC broken\n", "\n", "N(C)(C)(C)(C)C five\n"]
        out.append(tmp_path / f"part-{i}.smi{'.gz' if i else ''}")
        out[-1].write_bytes(gzip.compress("".join(lines).encode()) if i else "".join(lines).encode())
    return out


def search_of(posterior, table, rule: str = "ucb", **settings) -> LibrarySearch:
    known = [table.smiles[i] for i in range(0, len(table), 6)]
    settings = {"exclude": known, "fingerprinter": FINGERPRINT, "seed": 7, "block": 16, **settings}
    return LibrarySearch(posterior, rule, Q, **settings)


def stop_after(blocks: int):
    """Progress that is interrupted as by Ctrl-C."""
    seen: list[StreamProgress] = []

    def tell(now: StreamProgress) -> None:
        seen.append(now)
        if len(seen) == blocks:
            raise KeyboardInterrupt

    return tell


class TestBatch:
    @pytest.mark.parametrize("maximize", [True, False])
    @pytest.mark.parametrize("rule", STREAM_RULES)
    def test_it_is_that_of_the_pool(self, posterior, table, files, rule, maximize):
        """Twins count once, of equal rows the first is taken, and reasons are the same."""
        expected = make_rule(rule, Pool(table), Q, maximize=maximize).choose(
            posterior, exclude=range(0, len(table), 6), generator=7
        )
        answer = suggest_from_files(search_of(posterior, table, rule, maximize=maximize), files)
        assert answer.smiles == [table.smiles[row] for row in expected.places.tolist()]
        assert answer.choice.why == expected.why

    def test_many_excluded_molecules_leave_room_for_others(self, posterior, table, files):
        """More of the best than rows are kept."""
        mean = posterior.mean(table[:])
        known = mean.topk(60).indices.tolist()
        expected = make_rule("greedy", Pool(table), Q).choose(posterior, exclude=known)
        search = search_of(posterior, table, "greedy", exclude=[table.smiles[row] for row in known])
        assert suggest_from_files(search, files).smiles == [
            table.smiles[row] for row in expected.places.tolist()
        ]

    def test_each_row_says_where_it_stands(self, posterior, table, files, rows):
        answer = suggest_from_files(search_of(posterior, table), files)
        for row in range(len(answer.table)):
            shard = files.index(Path(answer.files[row]))
            line = answer.lines[row] - (3 if shard == 1 and answer.lines[row] > 10 else 0)
            assert rows[50 * shard + line - 1] == answer.table.smiles[row]
            assert answer.table.ids[row] == f"Z{50 * shard + line - 1}"

    def test_rows_that_cannot_be_used_are_counted(self, posterior, table, files):
        found = suggest_from_files(search_of(posterior, table), files).found
        assert (found.rows, found.unusable) == (152, 2)
        assert [(bad.shard, bad.line) for bad in found.examples] == [(1, 11), (1, 13)]
        assert found.reasons["not SMILES syntax"] == 1
        assert any("atom # N" in reason for reason in found.reasons)

    @pytest.mark.parametrize("rule", ["tempered", "ei"])
    def test_shards_are_found_and_joined_in_any_order(self, posterior, table, files, rule):
        """By whoever calls the pure function, with the search sent to another process."""
        search = search_of(posterior, table, rule)
        sent = pickle.loads(pickle.dumps(search))
        parts = [sent.shard(path, number) for number, path in enumerate(files)]
        one, other = search.reduce(*parts), search.reduce(search.reduce(parts[2], parts[0]), parts[1])
        assert one.shortlist.molecules == other.shortlist.molecules
        assert (one.rows, one.examples) == (other.rows, other.examples)
        with ThreadPoolExecutor(2) as pool:
            answer = suggest_from_files(search, files, executor=pool)
        assert answer.smiles == suggest_from_files(search, files).smiles
        assert answer.found.shortlist.molecules == one.shortlist.molecules

    def test_ranks_share_the_files(self, posterior, table, files, tmp_path):
        """Whole files, one for each rank at a time; the first writes the state, and the others do not."""

        class Rank(Workers):
            ranks = 2
            asked: ClassVar[list[int]] = []

            def __init__(self, rank: int) -> None:
                self.rank = rank

            def map(self, function, *items):
                self.asked.append(len(items[0]))
                return super().map(function, *items)

        search = search_of(posterior, table)
        expected = suggest_from_files(search, files).smiles
        for rank in (1, 0):
            told, state = [], tmp_path / "state"
            with entered(Rank(rank)):
                assert suggest_from_files(search, files, state=state, progress=told.append).smiles == expected
            assert state.exists() == (rank == 0) == bool(told)
        assert Rank.asked == [2, 1, 2, 1]

    @pytest.mark.parametrize(("rule", "share"), [("ucb", 0.7), ("ei", 0.99)])
    def test_few_variances_are_solved_for(self, posterior, table, tmp_path, rule, share, monkeypatch):
        """Bounds say which rows cannot stay; what is kept is what solving for all of them keeps."""
        solved, mean_and_variance = [], type(posterior).mean_and_variance

        def counted(self, points, *more, method="auto"):
            solved.append(len(points) if method == "solve" else 0)
            return mean_and_variance(self, points, *more, method=method)

        (tmp_path / "all.smi").write_text("\n".join(table.smiles))
        search = search_of(posterior, table, rule, block=200, exclude=())
        monkeypatch.setattr(type(posterior), "mean_and_variance", counted)
        found = search.shard(tmp_path / "all.smi")
        few = sum(solved)
        monkeypatch.setattr(LibrarySearch, "_bounded", False)
        assert found.shortlist.molecules == search.shard(tmp_path / "all.smi").shortlist.molecules
        assert few < share * found.rows

    def test_few_rows_are_kept(self, posterior, table, files):
        """Three batches and some to spare, of 130 that may be chosen."""
        assert len(suggest_from_files(search_of(posterior, table, "greedy"), files).table) == 3 * Q + 16


class TestFrontier:
    def test_it_keeps_the_best_for_the_mark_that_comes_last(self):
        """Large deviations go with small means, and the best means come last: then the widest rows are the best."""
        draw = np.random.default_rng(3)
        std = np.concatenate([draw.uniform(0.05, 1.0, size=317), np.full(3, 1e-3)])
        mean = np.concatenate([1.0 - std[:317] + 0.1 * draw.normal(size=317), draw.normal(3.0, 0.1, size=3)])
        values = np.stack([mean, mean, std])

        def score(m: np.ndarray, s: np.ndarray, best: float) -> np.ndarray:
            return np.log(s) + log_gain(torch.from_numpy((m - best) / s)).numpy()

        lists, kept = Frontier(3, 5, score), Shortlist()
        for start in range(0, 320, 40):
            block = values[:, start : start + 40]
            inside = np.flatnonzero(lists.enter(kept, block))
            number, place = lists.entries(block[:, inside], np.ones(len(inside), dtype=bool))
            molecules = {int(start + i): Molecule(str(start + i), "", str(start + i)) for i in inside}
            new = Shortlist(number, start + inside[place], block[number, inside[place]], molecules)
            kept = lists.cut(kept.joined(new))
        early, late = (
            set(np.argsort(-score(mean[:count], std[:count], np.sort(mean[:count])[-3]))[:5].tolist())
            for count in (280, 320)
        )
        assert min(late - early) < 280  # what the mark of 280 rows does not put first is wanted in the end
        assert late <= set(kept.on(1)[0].tolist())
        assert len(kept.on(1)[0]) < 60

    def test_skyband(self):
        draw = np.random.default_rng(1)
        first, second = draw.integers(0, 8, size=(2, 60)).astype(float)
        for depth in (1, 3):
            ahead = [
                sum(
                    (first[j] > first[i] or (first[j] == first[i] and j < i)) and second[j] >= second[i]
                    for j in range(60)
                )
                for i in range(60)
            ]
            assert skyband(first, second, depth).tolist() == [count < depth for count in ahead]


class TestState:
    @pytest.mark.parametrize("rule", ["thompson", "ei"])
    def test_an_interrupted_call_goes_on(self, posterior, table, files, tmp_path, rule):
        search, state = search_of(posterior, table, rule), tmp_path / "state"
        whole = suggest_from_files(search, files)
        with pytest.raises(KeyboardInterrupt):
            suggest_from_files(search, files, state=state, progress=stop_after(6))
        seen: list[StreamProgress] = []
        answer = suggest_from_files(search, files, state=state, progress=seen.append)
        assert seen[-1].rows == whole.found.rows
        assert 0 < seen[-1].rows_now < 80  # of 152
        assert seen[-1].bytes_done == seen[-1].bytes_total
        assert answer.smiles == whole.smiles
        assert answer.found.examples == whole.found.examples
        assert stream_seed(state) == 7
        again: list[StreamProgress] = []
        assert suggest_from_files(search, files, state=state, progress=again.append).smiles == whole.smiles
        assert again[-1].rows_now == 0

    def test_a_killed_process_goes_on(self, posterior, table, files, scripts, tmp_path):
        search, state = search_of(posterior, table), tmp_path / "state"
        (tmp_path / "search").write_bytes(pickle.dumps(search))
        code = (
            "import os, pickle, signal, sys\n"
            "from sggp.bayesopt.streaming import suggest_from_files\n"
            "def tell(now):\n"
            "    if now.rows > 60: os.kill(os.getpid(), signal.SIGKILL)\n"
            "search = pickle.load(open(sys.argv[1], 'rb'))\n"
            "suggest_from_files(search, sys.argv[3:], state=sys.argv[2], progress=tell)\n"
        )
        (tmp_path / "script.py").write_text(code, encoding="utf-8")
        child = scripts.run(tmp_path / "script.py", tmp_path / "search", state, *files)
        assert child.returncode == -signal.SIGKILL
        seen: list[StreamProgress] = []
        answer = suggest_from_files(search, files, state=state, progress=seen.append)
        assert seen[-1].rows_now < 152
        assert answer.smiles == suggest_from_files(search, files).smiles

    def test_new_files_are_read_as_well(self, posterior, table, files, tmp_path):
        search, state = search_of(posterior, table), tmp_path / "state"
        suggest_from_files(search, files[:2], state=state)
        seen: list[StreamProgress] = []
        answer = suggest_from_files(search, files, state=state, progress=seen.append)
        assert seen[-1].rows_now == 50
        assert answer.smiles == suggest_from_files(search, files).smiles
        with pytest.raises(InputError, match=r"part-1.*is not among the files"):
            suggest_from_files(search, files[:1], state=state)
        files[0].write_text("CCO a\n")
        with pytest.raises(InputError, match=r"part-0.*has changed since"):
            suggest_from_files(search, files, state=state)

    def test_a_file_that_changed_while_it_was_read_is_read_again(self, posterior, table, files, tmp_path):
        search, state = search_of(posterior, table), tmp_path / "state"
        with pytest.raises(KeyboardInterrupt):
            suggest_from_files(search, files, state=state, progress=stop_after(6))
        files[1].write_bytes(gzip.compress(gzip.decompress(files[1].read_bytes()) + b"CCCCCCO more\n"))
        seen: list[StreamProgress] = []
        answer = suggest_from_files(search, files, state=state, progress=seen.append)
        assert answer.found.rows == 153
        assert seen[-1].rows_now == 103  # all but those of the first file

    def test_a_damaged_file_is_named_and_can_be_replaced(self, posterior, table, files, tmp_path):
        search, state, good = search_of(posterior, table), tmp_path / "state", files[1].read_bytes()
        files[1].write_bytes(good[: len(good) // 2])
        with pytest.raises(DataFileError, match=r"part-1.*damaged"):
            suggest_from_files(search, files, state=state)
        with ThreadPoolExecutor(1) as pool, pytest.raises(DataFileError, match=r"part-1.*damaged"):
            suggest_from_files(search, files, state=state, executor=pool)
        files[1].write_bytes(good)
        seen: list[StreamProgress] = []
        answer = suggest_from_files(search, files, state=state, progress=seen.append)
        assert (seen[-1].rows, seen[-1].rows_now < 152) == (152, True)
        assert answer.smiles == suggest_from_files(search, files).smiles

    def test_another_search_is_refused(self, posterior, table, files, tmp_path):
        search, state = search_of(posterior, table), tmp_path / "state"
        suggest_from_files(search, files[:1], state=state)
        for other, words in (
            (search_of(posterior, table, "greedy"), "rule 'ucb' and not 'greedy'"),
            (replace(search, batch_size=3), "batch size 4 and not 3"),
            (replace(search, exclude=["CCO"]), "molecules not to propose"),
            (search_of(posterior.update(table[:1], torch.tensor([9.0])), table), "another model"),
        ):
            with pytest.raises(InputError, match=words):
                suggest_from_files(other, files[:1], state=state)
        state.write_bytes(state.read_bytes()[:-20])
        with pytest.raises(DataFileError, match="damaged"):
            suggest_from_files(search, files[:1], state=state)
        assert stream_seed(tmp_path / "none") is None


class TestRefusals:
    def test_what_cannot_be_looked_for(self, posterior, table):
        for settings, words in (
            ({"rule": "top-k"}, "'thompson'"),
            ({"fingerprinter": SmilesFingerprinter(fp_size=32)}, "64 columns and the fingerprinter gives 32"),
            ({"block": 0}, "at least 1"),
            ({"exclude": ["what"]}, "what"),
            ({"exclude": "CCO"}, "exclude must be a list of SMILES, got 'CCO'"),
            ({"columns": "smiles"}, "columns must be the names of two columns"),
            ({"columns": ("smiles", 3)}, "columns must be the names of two columns"),
        ):
            with pytest.raises(InputError, match=words):
                search_of(posterior, table, **settings)
        with pytest.raises(InputError, match="64 sample paths but the rule needs 65"):
            LibrarySearch(posterior, "thompson", 65, fingerprinter=FINGERPRINT)

    def test_too_few_molecules(self, posterior, table, tmp_path):
        path = tmp_path / "few.smi"
        path.write_text(f"CCCCO\nOCCCC\n{table.smiles[0]}\nCCCCCO\n")
        with pytest.raises(InputError, match=r"hold only 2 that may be proposed \(4 rows, 0 of them"):
            suggest_from_files(search_of(posterior, table), [path])
        with pytest.raises(InputError, match="no files to read"):
            suggest_from_files(search_of(posterior, table), [])

    def test_what_is_no_list_of_files(self, posterior, table, files):
        search = search_of(posterior, table)
        for wrong in (str(files[0]), files[0], None):
            with pytest.raises(InputError, match="files must be a list of paths"):
                suggest_from_files(search, wrong)
        for number in (-1, 1.5):
            with pytest.raises(InputError, match="number must be"):
                search.shard(files[0], number)
        with pytest.raises(InputError, match="path must be a path"):
            search.shard(3)

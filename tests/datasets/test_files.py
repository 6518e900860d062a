"""Downloads: checked, cached, and refused with a typed error; from a server in this process, never the network."""

import hashlib
import http.server
import sys
import threading

import pytest

from sggp.datasets import esol, uci
from sggp.datasets.files import SOURCES, Source, data_file
from sggp.errors import DataFileError, MissingExtra


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves one file at /file.gz and counts the requests."""
    monkeypatch.delenv("SGGP_DATA_DIR", raising=False)
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            found = self.path == "/file.gz"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", "7" if found else "0")
            self.end_headers()
            self.wfile.write(b"content" if found else b"")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()
        thread.join()


def offer(monkeypatch, url, content=b"content"):
    monkeypatch.setattr(
        "sggp.datasets.files.SOURCES", {"a/b.gz": Source(url, hashlib.sha256(content).hexdigest())}
    )


def test_download_once_then_from_the_cache(server, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    address, requests = server
    offer(monkeypatch, f"{address}/file.gz")
    path = data_file("a/b.gz", cache=tmp_path)
    assert path.read_bytes() == b"content"
    assert data_file("a/b.gz", cache=tmp_path) == path
    assert requests == ["/file.gz"]


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    address, _ = server
    offer(monkeypatch, f"{address}/file.gz", b"something else")
    with pytest.raises(DataFileError, match="expected SHA-256"):
        data_file("a/b.gz", cache=tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_an_unreachable_file_is_a_typed_error(server, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    address, _ = server
    offer(monkeypatch, f"{address}/absent.gz")
    with pytest.raises(DataFileError, match="SGGP_DATA_DIR"):
        data_file("a/b.gz", cache=tmp_path)


def test_the_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.gz").write_bytes(b"mine")
    monkeypatch.setenv("SGGP_DATA_DIR", str(tmp_path))
    assert data_file("a/b.gz").read_bytes() == b"mine"


def test_missing_pooch_names_the_extra(monkeypatch):
    monkeypatch.delenv("SGGP_DATA_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtra, match=r"sggp\[data\]"):
        uci("pol")


def test_a_set_without_checksum_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv("SGGP_DATA_DIR", raising=False)
    with pytest.raises(DataFileError, match=r"mol/esol.csv.gz has no download.*SGGP_DATA_DIR is not set"):
        esol()
    monkeypatch.setenv("SGGP_DATA_DIR", str(tmp_path))
    with pytest.raises(DataFileError, match="it is not in SGGP_DATA_DIR"):
        esol()


def test_listed_checksums_are_those_of_the_files(data_dir):
    assert len(SOURCES) == 18
    for relative, source in SOURCES.items():
        assert hashlib.sha256((data_dir / relative).read_bytes()).hexdigest() == source.sha256, relative
        assert source.url.endswith(relative.removeprefix("uci/"))

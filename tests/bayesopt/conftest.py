"""Where campaigns are kept, one place for each kind of storage."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.searches import shortened

SERVER = "SGGP_POSTGRES_URL"  # of a database in which schemas may be made


@pytest.fixture(scope="module", autouse=True)
def _short_searches() -> Iterator[None]:
    """What campaigns do with models hangs on no digit of them; a file that defines this anew learns as users do."""
    with shortened():
        yield


@pytest.fixture(params=["file", "sqlalchemy", "postgres"])
def place(request, tmp_path):
    """What `open_storage` takes, for a storage of its own."""
    if request.param == "file":
        yield tmp_path / "c.db"
        return
    if find_spec("sqlalchemy") is None:
        pytest.skip("SQLAlchemy is not installed")
    if request.param == "sqlalchemy":
        yield f"sqlite:///{tmp_path / 'c.db'}"
        return
    url = os.environ.get(SERVER)
    if not url:
        pytest.skip(f"{SERVER} names no PostgreSQL server")
    from sqlalchemy import create_engine, text

    name, engine = f"test_{uuid.uuid4().hex}", create_engine(url)
    with engine.begin() as db:
        db.execute(text(f"CREATE SCHEMA {name}"))
    yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"
    with engine.begin() as db:
        db.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()

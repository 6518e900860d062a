"""`sggp bench`: how fast this machine and the engine are."""

from sggp.cli.bench.machine import app

__all__ = ["app"]

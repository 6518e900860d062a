"""What a fit says of itself while it runs."""

from __future__ import annotations

import logging
import sys
from typing import Any


def report(line: str, *values: Any) -> None:
    """One line on standard error, through a logger of its own: the caller's logging is left alone."""
    logger = logging.Logger("sggp.GPRegressor", logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.info(line, *values)


def report_record(record: dict[str, Any]) -> None:
    """A record of a trace (`FitResult.trace`) as one line."""
    report("step %(step)d  value per row %(value).4f  gradient %(gradient_norm).4f  %(seconds).1f s", record)

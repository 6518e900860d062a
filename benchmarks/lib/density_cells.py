"""One contender on one split of a table, scored in a process of its own, and the file of such cells."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.common import run_apart
from lib.density_contenders import COVERAGE, Predicted, contender
from lib.density_quantiles import QuantileDistribution
from lib.density_tables import load

__all__ = ["Cells", "Limits", "key", "run_cell", "score"]

MOST_CAPPED = 0.1
KEY = ("table", "split", "contender", "rows")


def key(cell: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a cell the same as another."""
    return tuple(cell[name] for name in KEY)


def score(predicted: Predicted, y: np.ndarray, unit: float = 1.0) -> dict[str, Any]:
    """RMSE, mean negative log density, mean CRPS, coverage and mean width of the central 95 %, of test targets y (m,).

    The density of a `QuantileDistribution` is not scored where it is capped on more than a tenth of the rows.
    """
    found = predicted.distribution
    low, high = found.interval(COVERAGE)
    nll: float | None = float(-np.mean(found.logpdf(y)) + math.log(unit))
    if isinstance(found, QuantileDistribution) and found.capped(y) > MOST_CAPPED:
        nll = None
    out = {
        "rmse": math.sqrt(np.mean(np.square(y - predicted.mean))) * unit,
        "nll": nll,
        "crps": float(np.mean(found.crps(y))) * unit,
        "coverage": float(np.mean((low <= y) & (y <= high))),
        "width": float(np.mean(high - low)) * unit,
    }
    if predicted.conformal is not None:
        low, high = predicted.conformal()
        out["conformal_coverage"] = float(np.mean((low <= y) & (y <= high)))
        out["conformal_width"] = float(np.mean(high - low)) * unit
    return out


def measured(
    table: str, split: int, name: str, rows: int | None, cpu_seconds: int | None = None
) -> dict[str, Any]:
    """Seconds from arrays to distributions, and scores; or the failure, in a sentence.

    `cpu_seconds` of this process, beside those that its imports took, after which the system ends it.
    """
    if cpu_seconds is not None:
        soft = math.ceil(time.process_time()) + cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 5))
    data, who = load(table, split, rows), contender(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            missing = who.prepare(data.x_train, data.y_train, data.x_test)
            if missing:
                return {"failure": missing}
            caught.clear()
            begin, cpu = time.perf_counter(), time.process_time()
            predicted = who.call(data.x_train, data.y_train, data.x_test)
            seconds, spent = time.perf_counter() - begin, time.process_time() - cpu
            scores = score(predicted, data.y_test, data.unit)
        except MemoryError:
            return {"failure": "out of memory"}
        except Exception as error:  # noqa: BLE001 whatever a package raises costs it this cell
            traceback.print_exc()
            return {"failure": f"{type(error).__name__}: {str(error)[:200]}"}
    found = {"n": len(data.x_train), "m": len(data.x_test), "d": data.x_train.shape[1]}
    kinds = dict(Counter(warning.category.__name__ for warning in caught))
    told = {"note": predicted.note, "warnings": kinds, "failure": ""}
    return {**found, "seconds": seconds, "cpu_seconds": spent, **scores, **told}


@dataclass(frozen=True)
class Limits:
    """What a cell may take: memory, seconds of the clock and, where the machine is shared, of the processor."""

    gib: float | None
    seconds: float
    cpu_seconds: int | None = None


def run_cell(cell: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """`measured` apart, under limits; a process that hangs or dies is a failure like others."""
    asked = (cell["table"], cell["split"], cell["contender"], cell["rows"], limits.cpu_seconds)
    apart = run_apart(measured, *asked, limit_gib=limits.gib, limit_seconds=limits.seconds)
    failure = apart.failure
    if failure.startswith(f"killed by signal {signal.SIGXCPU.value} "):
        failure = f"stopped after {limits.cpu_seconds} s of the processor"
    found = apart.value if apart.value is not None else {"failure": failure}
    return {**cell, **found, "peak_gib": apart.peak_gib if math.isfinite(apart.peak_gib) else None}


class Cells:
    """Finished cells, kept in a JSON file as they come where there is one.

    Args:
        path: read where it exists, replaced as a whole after every cell; None keeps them in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        found = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else []
        self.found: dict[tuple[Any, ...], dict[str, Any]] = {key(cell): cell for cell in found}

    def add(self, cell: dict[str, Any]) -> None:
        self.found[key(cell)] = cell
        if self.path is not None:
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(list(self.found.values()), indent=1), encoding="utf-8")
            os.replace(new, self.path)

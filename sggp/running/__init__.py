"""Long computations: progress with time left, records as JSON lines, deadlines, and an end on SIGTERM or Ctrl-C."""

from sggp.running.lines import ProgressLines
from sggp.running.records import JsonLines
from sggp.running.scope import (
    OutOfTime,
    Step,
    Stop,
    deadline,
    go_on,
    heard,
    limited,
    listening,
    may_stop,
    patient,
    steps,
    stop_asked,
    stop_on_signals,
    stoppable,
    tell,
)

__all__ = [
    "JsonLines",
    "OutOfTime",
    "ProgressLines",
    "Step",
    "Stop",
    "deadline",
    "go_on",
    "heard",
    "limited",
    "listening",
    "may_stop",
    "patient",
    "steps",
    "stop_asked",
    "stop_on_signals",
    "stoppable",
    "tell",
]

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
    in_time,
    limited,
    listening,
    may_stop,
    patient,
    share_of_time,
    steps,
    stop_asked,
    stop_on_signals,
    stoppable,
    tell,
    time_is_up,
    within_time,
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
    "in_time",
    "limited",
    "listening",
    "may_stop",
    "patient",
    "share_of_time",
    "steps",
    "stop_asked",
    "stop_on_signals",
    "stoppable",
    "tell",
    "time_is_up",
    "within_time",
]

"""The steps of a long computation as text: one line rewritten in a terminal, lines at growing intervals in a log."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from sggp.running.scope import Step

__all__ = ["ProgressLines", "shown_seconds"]

_REDRAWN = 0.2  # seconds between two drawings of the line in a terminal
_FIRST = 5.0  # seconds to the first line in a log
_GROWTH = 1.5  # the next one comes after so many times the seconds so far
_SELDOM = 600.0  # and after so many seconds at most
_LATEST = 12  # steps that the rate of a solve is taken from
_KEPT = 1.0  # seconds from which on a phase keeps its last line


class ProgressLines:
    """A listener that writes what it hears, for people: phase, what is done, the residual, seconds, and those left.

    In a terminal it is one line, rewritten, and a line for each phase that took a second or more. Elsewhere a line is
    written after 5 seconds, and then each time that half as long again has passed, at least every ten minutes; notes
    are written at once.

    The seconds left are those of the phase: by its rate where the whole is known; of a solve by the rate at which the
    logarithm of its residual fell over the last dozen steps. Both are estimates, and said to be.

    Args:
        stream: where to, as sys.stderr; one that fails, or None, costs the lines and nothing else.
        notes: whether to write notes. clock: seconds, from any origin.
    """

    def __init__(
        self, stream: TextIO | None, *, notes: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._notes, self._clock = stream, notes, clock
        self._terminal = False
        with suppress(OSError, ValueError, AttributeError):  # closed, or a console's own, without that method
            self._terminal = stream is not None and stream.isatty()
        self._begin = self._phase_begin = self._drawn = clock()
        self._next = self._begin + _FIRST
        self._phase, self._line, self._open = "", "", False
        self._done = self._first = 0.0
        self._trail: deque[tuple[float, float]] = deque(maxlen=_LATEST)

    def __call__(self, step: Step) -> None:
        """Hear one step."""
        now = self._clock()
        if step.note:
            self._end_phase(now)
            if self._notes:
                self._write(f"{step.phase}: {step.note}")
            return
        if step.phase != self._phase or step.done < self._done:
            self._end_phase(now)
            self._phase, self._phase_begin, self._first = step.phase, now, step.done
        self._done = step.done
        self._line = self._described(step, now)
        if self._terminal:
            if now - self._drawn >= _REDRAWN or not self._open:
                self._put(f"\r\x1b[2K{self._line}")
                self._drawn, self._open = now, True
        elif now >= self._next:
            self._write(self._line)
            self._next = now + min(_SELDOM, (_GROWTH - 1) * (now - self._begin))

    def close(self) -> None:
        """End the line that is being rewritten."""
        self._end_phase(self._clock())

    def _end_phase(self, now: float) -> None:
        if self._open:
            kept = now - self._phase_begin >= _KEPT
            self._put(f"\r\x1b[2K{self._line}\n" if kept else "\r\x1b[2K")
        self._open, self._phase = False, ""
        self._trail.clear()

    def _write(self, line: str) -> None:
        self._put(f"{line}\n")

    def _put(self, text: str) -> None:
        if self._stream is None:  # of a process without one
            return
        with suppress(OSError, ValueError, AttributeError):  # gone, a full disk, no `flush`
            self._stream.write(text)
            self._stream.flush()

    def _described(self, step: Step, now: float) -> str:
        parts = []
        if step.of is not None:
            parts.append(f"{step.done:,.0f} of {step.of:,.0f}")
        elif step.done:
            parts.append(f"step {step.done:,.0f}")
        if "residual" in step.values:
            parts.append(f"residual {step.values['residual']:.1e} (wanted {step.values['tolerance']:.1e})")
        parts.append(shown_seconds(now - self._begin))
        left = self._left(step, now)
        if left is not None:
            parts.append(f"about {shown_seconds(left)} left in this phase")
        return f"{step.phase}: {', '.join(parts)}"

    def _left(self, step: Step, now: float) -> float | None:
        """Seconds to the end of the phase; None where nothing tells."""
        if step.of is not None:
            passed, made = now - self._phase_begin, step.done - self._first
            return passed * (step.of - step.done) / made if made > 0 and passed > 0 else None
        residual, wanted = step.values.get("residual", 0.0), step.values.get("tolerance", 0.0)
        if not (residual > 0 and wanted > 0 and math.isfinite(residual)):
            return None
        # the distance to the tolerance, whichever column it is of
        self._trail.append((now, math.log(residual / wanted)))
        (first, above), (last, left) = self._trail[0], self._trail[-1]
        if left <= 0:
            return 0.0
        return left * (last - first) / (above - left) if above > left and last > first else None


def shown_seconds(seconds: float) -> str:
    """A duration to read: "0.4 s", "42 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"

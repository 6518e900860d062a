"""What a campaign needs of its storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from sggp.bayesopt.trials import Trial


class Moved(Exception):
    """Another process wrote to the journal in the meantime: look again, and decide anew."""


@dataclass(frozen=True)
class Draft:
    """A change that is asked for; it becomes an `Event` where it is allowed and changes something.

    Attributes:
        what: asked, attached, told, failed, amended, withdrawn, identified or settings.
        trial: its id; None for a new trial, and for what concerns no trial.
        data: what changes, as JSON; see `sggp.bayesopt.storage.journal`.
        reason: why, in the user's words.
    """

    what: str
    trial: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Event:
    """One line of the journal, never changed once it is written.

    Attributes:
        number: from 1, without gaps.
        at: UTC time, ISO 8601.
        what, trial, data, reason: as in `Draft`; "created" and "migrated" besides.
        program: name and version of the program that wrote it.
        digest: checksum of this event and the digest of the event before it.
    """

    number: int
    at: str
    what: str
    trial: int | None
    data: dict[str, Any]
    reason: str | None
    program: str
    digest: str


class Snapshot(NamedTuple):
    """The trials by id, as they are after the event of number `last`."""

    last: int
    trials: list[Trial]


@runtime_checkable
class Storage(Protocol):
    """The journal of one campaign, and the trials that follow from it, for several processes if it allows them.

    A change is kept, whole, when the call returns; a call that raises has changed nothing. Ids count from 1 in the
    order of writing, and are never used twice. What is given has been checked.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def exists(self) -> bool:
        """Whether it holds a campaign; a creation that was cut short does not count."""

    def create(self, meta: dict[str, Any]) -> None:
        """Start a campaign with its settings, which JSON can hold.

        Raises:
            Moved: another process has started one there.
        """

    def meta(self) -> dict[str, Any]:
        """The settings given to `create`, with the changes to them since."""

    def snapshot(self) -> Snapshot:
        """All trials, and the number of the last event."""

    def events(self, trial: int | None = None) -> list[Event]:
        """The journal, of one trial or whole."""

    def append(self, drafts: Sequence[Draft], *, after: int | None = None) -> list[Trial]:
        """Write changes, all or none; the trials they concern, each as it is then.

        The "asked" among them make one batch, whose number follows the last batch's.

        Args:
            drafts: what should change; what would change nothing is not written.
            after: the number of the last event that the caller has seen, where the change depends on that.

        Raises:
            Moved: there are events after `after`.
            InputError: no such trial, or what it became before forbids the change.
        """

    def restore(self, events: Sequence[Event]) -> int:
        """Take over the journal of another storage from its start; how many of its events were new here.

        Raises:
            InputError: this journal and the given one went apart.
        """

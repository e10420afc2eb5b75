"""Reading a recording whose records name those that they follow, so that some may have been taken back."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from attrs import define, field

from .branches import REWOUND, Abandoned
from .clock import TimestampClock
from .content import Notes
from .held_steps import HeldSteps
from .json_recovery import iterate_records
from .steps import BrokenLine, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from .json_recovery import IsRecord
    from .steps import Step

__all__ = ["RecordReading"]


@define
class RecordReading:
    """State between records. Lives as long as one reading of a file; a format reads its records into `out`."""

    context_window: int
    clock: TimestampClock = field(factory=TimestampClock)
    out: HeldSteps = field(factory=HeldSteps)
    notes: Notes = field(factory=Notes)
    has_started: bool = False

    def read(
        self,
        file: BinaryIO,
        is_record: IsRecord,
        find_abandoned: Callable[[Iterable[tuple[int, dict[str, Any] | str]]], Abandoned],
    ) -> Iterator[Step]:
        """Yield the steps of a file, which must be seekable: it is read twice. Never raises for what a line holds."""
        file.seek(0)
        abandoned = find_abandoned(iterate_records(file, is_record))
        file.seek(0)
        for place, (number, record) in enumerate(iterate_records(file, is_record)):
            if type(record) is str:
                self.out.add(BrokenLine(self.clock.now, number, record))
            elif place in abandoned:
                self.skip(REWOUND)
            elif type(record) is dict:
                self.notes = Notes()
                self.receive_record(record)
                for step in self.notes.steps(self.clock.now, number):
                    self.out.add(step)
            yield from self.out.take()
        self.end()
        self.out.close_all()
        yield from self.out.take()

    def skip(self, name: str) -> None:
        """Add that something has no event."""
        self.out.add(Skipped(self.clock.now, name))

    @abstractmethod
    def receive_record(self, record: dict[str, Any]) -> None:
        """Add the steps of one record; what of it cannot be read goes into `notes`."""

    @abstractmethod
    def end(self) -> None:
        """Add the last steps, at the end of the file."""

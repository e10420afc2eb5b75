"""Reading recordings of every format; the format is detected from what a file holds, never from its name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from attrs import define, field

from ally_plugins.contract.values.errors import RecordingError
from ally_plugins.journal.export import FORMAT

from .agent_files import find_agent_files
from .content import text_of
from .export import EXPORT_VERSIONS, read_export
from .json_lines import MAX_LINE_BYTES, iterate_lines
from .json_recovery import IsRecord, read_line
from .json_scanner import iterate_members
from .pi_session import is_pi_record, read_pi_session
from .record_types import is_transcript_start
from .rollout import read_rollout
from .rollout_records import is_rollout_start
from .trajectory import read_trajectory
from .transcript import CONTEXT_WINDOW, read_transcript
from .transcript import is_record as is_transcript_record
from .turns import with_safe_points

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from .steps import Step

__all__ = ["Recording", "RecordingFormat", "detect_format", "open_recording"]

# Lines that are looked at before a file counts as no JSON lines: a recording may begin with a few broken ones.
_LINES_TO_TRY: Final = 32
# A longer line is first taken for a trajectory, which is then found without holding the line in memory.
_FIRST_LIMIT: Final = 1024 * 1024
_ARRAYS: Final = frozenset({"trajectory", "history"})
_CHUNK_STEPS: Final = 128
_CHUNK_BYTES: Final = 1024 * 1024
_CHECK_EVERY: Final = 4  # steps; the position of a file is a system call
_EXPECTED: Final = (
    "expected a Claude Code transcript, a Codex rollout, a pi session, a SWE-agent trajectory "
    "or an export of the journal"
)


class RecordingFormat(StrEnum):
    """The formats that can be replayed."""

    TRANSCRIPT = "claude-code-transcript"
    ROLLOUT = "codex-rollout"
    PI_SESSION = "pi-session"
    TRAJECTORY = "swe-agent-trajectory"
    EXPORT = "ally-journal-export"


@define
class Recording:
    """A file that can be replayed. Holds no open file: each iteration opens and reads it anew.

    `size` is in bytes; `position` says how far the current iteration has read, for a progress bar.
    """

    path: Path
    format: RecordingFormat
    size: int
    context_window: int = CONTEXT_WINDOW
    session_id: str | None = None
    _file: BinaryIO | None = field(default=None, init=False, repr=False)

    @property
    def position(self) -> int:
        """How many bytes the current iteration has read; `size` when none is under way."""
        return self.size if self._file is None else self._file.tell()

    def steps(self) -> Generator[Step, None, None]:
        """Yield what happened, with safe points: `SessionStarted` first (but for unread lines), `SessionEnded` last.

        Raises RecordingError when the file cannot be opened or read any more; nothing that it holds raises.
        """
        try:
            with self.path.open("rb") as file:
                self._file = file
                yield from with_safe_points(self._read(file))
        except OSError as error:
            raise RecordingError(f"cannot read {str(self.path)!r}: {error.strerror}") from error
        finally:
            # The position of a file that is closed raises.
            self._file = None

    def chunks(self) -> Generator[list[Step], None, None]:
        """Yield what `steps` yields, some at a time, since reading many in a row is faster than one now and then.

        A chunk ends once a mebibyte was read, so that memory stays what it is for steps one by one.
        """
        chunk: list[Step] = []
        start = 0
        try:
            for step in self.steps():
                chunk.append(step)
                if len(chunk) % _CHECK_EVERY == 0:
                    position = self.position
                    if len(chunk) >= _CHUNK_STEPS or position - start >= _CHUNK_BYTES:
                        yield chunk
                        chunk, start = [], position
        except RecordingError:
            yield chunk  # the steps before the failure are still valid
            raise
        yield chunk

    def _read(self, file: BinaryIO) -> Iterator[Step]:
        match self.format:
            case RecordingFormat.TRANSCRIPT:
                return read_transcript(file, self.context_window, find_agent_files(self.path, is_transcript_record))
            case RecordingFormat.ROLLOUT:
                return read_rollout(file, self.context_window)
            case RecordingFormat.PI_SESSION:
                return read_pi_session(file, self.context_window)
            case RecordingFormat.TRAJECTORY:
                return read_trajectory(file)
            case RecordingFormat.EXPORT:
                return read_export(file, self.session_id)


def open_recording(
    path: str | Path, *, context_window: int = CONTEXT_WINDOW, session_id: str | None = None
) -> Recording:
    """Return the recording in a file, ready to be read.

    `context_window` is in tokens; the percentages of recordings that do not hold it are of it. `session_id` picks a
    session of an export. Raises RecordingError when the file cannot be read or holds none of the formats.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return Recording(path, detect_format(file, str(path)), path.stat().st_size, context_window, session_id)
    except OSError as error:
        raise RecordingError(f"cannot read {str(path)!r}: {error.strerror}") from error


def detect_format(file: BinaryIO, name: str = "recording") -> RecordingFormat:
    """Return the format of what `file` holds; `name` is for the error's text.

    Raises RecordingError for none of the known formats, and for an export of a newer version.
    """
    found = _detect_lines(file, name, _FIRST_LIMIT)
    if found is not None:
        return found
    file.seek(0)
    # Element by element: a trajectory is one line, and may be larger than the memory that a line may take.
    if any(member.key in _ARRAYS and member.element is not None for member in iterate_members(file)):
        return RecordingFormat.TRAJECTORY
    file.seek(0)
    found = _detect_lines(file, name, MAX_LINE_BYTES)
    if found is not None:
        return found
    file.seek(0)
    what = "nothing of the kind" if file.read(1) else "an empty file"
    raise RecordingError(f"cannot replay {name!r}: found {what}, {_EXPECTED}")


def _detect_lines(file: BinaryIO, name: str, limit: int) -> RecordingFormat | None:
    for count, (_number, line) in enumerate(iterate_lines(file, limit)):
        records = () if line is None else read_line(line, _is_start)[0]
        found = next((found for record in records if (found := _detect_record(record, name)) is not None), None)
        if found is not None:
            return found
        if line is None or count >= _LINES_TO_TRY:
            return None
    return None


def _detect_record(record: dict[str, Any], name: str) -> RecordingFormat | None:
    if record.get("format") == FORMAT:
        found = record.get("version")
        if type(found) is not int or found not in EXPORT_VERSIONS:
            expected = f"{EXPORT_VERSIONS[0]} to {EXPORT_VERSIONS[-1]}"
            raise RecordingError(f"cannot replay {name!r}: the export has version {found!r}, expected {expected}")
        return RecordingFormat.EXPORT
    if any(type(record.get(key)) is list for key in _ARRAYS):
        return RecordingFormat.TRAJECTORY
    if text_of(record, "kind") in {"event", "message"} and "session_id" in record:
        return RecordingFormat.EXPORT
    return next((found for found, is_start in _STARTS.items() if is_start(record)), None)


def _is_start(record: dict[str, Any]) -> bool:
    return any(is_start(record) for is_start in _STARTS.values())


# No record of one of them is one of another.
_STARTS: Final[dict[RecordingFormat, IsRecord]] = {
    RecordingFormat.ROLLOUT: is_rollout_start,
    RecordingFormat.TRANSCRIPT: is_transcript_start,
    RecordingFormat.PI_SESSION: is_pi_record,
}

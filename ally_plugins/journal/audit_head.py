"""`audit.head`: how far the chain has come, kept beside the journal so that a cut end is noticed.

It is written after the commit, so it may lag behind the journal; it never leads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import get_ident
from typing import Final

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.policy.owned_files import way_out_of

from .chain import Head
from .owned_files import read_file

__all__ = ["MAX_BYTES", "check_head", "read_head", "write_head"]


MAX_BYTES: Final = 4096
"""It has one line of some 130 bytes."""


def read_head(path: Path, *, is_own: bool = True) -> Head | None:
    """Read `audit.head`; None when there is none. Never blocks on a pipe or a terminal in its place.

    Without `is_own` the file may belong to another user: a copy that is only verified and never written to. Raises
    JournalError when it cannot be read, or is no audit head.
    """
    try:
        content = read_file(path, MAX_BYTES, is_own=is_own)
        return None if content is None else Head.from_text(content.decode())
    except OSError as error:
        raise JournalError(f"the audit head {str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        way_out = f"see `ally-plugins audit verify`; restore it, or go on without: {way_out_of(str(path))}"
        raise JournalError(f"the audit head {str(path)!r} cannot be read: {error}; {way_out}") from error


def write_head(path: Path, head: Head, *, sync: bool) -> None:
    """Replace `audit.head` as a whole, unless another host has written a later one. Raises OSError or JournalError."""
    # Two hosts may write by turns, and the one that comes late must not set the file back.
    newest = read_head(path)
    if newest is not None and newest.chain == head.chain and newest.n >= head.n:
        return
    # A name of this process and thread alone: of two that shared one, each would rename the other's half.
    new = path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}")
    try:
        new.unlink(missing_ok=True)  # left by a killed process with the same pid; O_EXCL would fail on it
        descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(head.to_text().encode())
            if sync:
                file.flush()
                # Before the rename, or a crash may leave the new name with an empty file.
                os.fsync(descriptor)
        # The folder is not synced: an older head after a power cut is a lag, and no fault.
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def check_head(path: Path, head: Head | None, hash_at: Callable[[int], bytes | None], now: Head) -> None:
    """Raise JournalError when the journal ends before what `audit.head` has seen, or is another one.

    `head` is what the file says, `now` the journal's own head. Read the file first: another host may advance both in
    between, and a file that is read later would look as if the journal had been cut. Opening such a journal would
    replace the file, and with it the proof that something is missing.
    """
    if head is None:
        return
    way_out = f"see `ally-plugins audit verify`; restore the journal, or go on without: {way_out_of(str(path))}"
    if head.chain != now.chain:
        raise JournalError(f"the journal is not the one that {str(path)!r} belongs to; {way_out}")
    if head.n > now.n:
        raise JournalError(f"the journal ends at record {now.n}, but {str(path)!r} has seen {head.n}; {way_out}")
    if head.n and hash_at(head.n) != head.hash:
        raise JournalError(f"record {head.n} of the journal is not the one that {str(path)!r} has seen; {way_out}")

"""The tables of a fleet's records, and the steps from each version to the next; `store` runs them."""

from __future__ import annotations

from typing import Final

__all__ = ["APPLICATION_ID", "COMMENTS", "VERSION", "in_postgres", "statements_after"]

APPLICATION_ID: Final = 0x416C6C66
"""Marks a file: "Allf", beside the journal's "Ally". It is also the lock of whoever changes tables in PostgreSQL."""

_STEPS: Final = (
    (
        """CREATE TABLE homes(
            name TEXT PRIMARY KEY, chain TEXT, n BIGINT NOT NULL DEFAULT 0, hash BLOB, seen_at BIGINT NOT NULL,
            said_n BIGINT) WITHOUT ROWID""",
        # Not WITHOUT ROWID: there SQLite gives a row of a KiB a page of its own.
        """CREATE TABLE records(
            home TEXT NOT NULL, chain TEXT NOT NULL, n BIGINT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL,
            plugin TEXT, session_id TEXT, ref TEXT, key TEXT, digest BLOB NOT NULL, hash BLOB NOT NULL, content BLOB,
            PRIMARY KEY (home, chain, n))""",
        "CREATE INDEX records_by_time ON records(at)",
        "CREATE INDEX records_by_ref ON records(ref) WHERE ref IS NOT NULL",
        """CREATE TABLE findings(
            id INTEGER PRIMARY KEY, home TEXT NOT NULL, chain TEXT NOT NULL, kind TEXT NOT NULL,
            record BIGINT NOT NULL, text TEXT NOT NULL, at BIGINT NOT NULL, UNIQUE (home, chain, kind, record))""",
    ),
    (
        "ALTER TABLE homes ADD COLUMN held TEXT",
        "CREATE INDEX events_by_session ON records(session_id) WHERE kind = 'events'",
    ),
    (
        "ALTER TABLE homes ADD COLUMN events TEXT",
        "ALTER TABLE homes ADD COLUMN retired_at BIGINT",
        "ALTER TABLE homes ADD COLUMN retired TEXT",
        # Up to which record a chain was removed, with its hash: the next one builds on that.
        """CREATE TABLE prunings(
            id INTEGER PRIMARY KEY, home TEXT NOT NULL, chain TEXT NOT NULL, n BIGINT NOT NULL, hash BLOB NOT NULL,
            records BIGINT NOT NULL, at BIGINT NOT NULL)""",
    ),
)
"""All steps in SQLite's words, in order, which new records take too."""

VERSION: Final = len(_STEPS)

COMMENTS: Final = tuple(f"records of a fleet of ally-plugins, version {number}" for number in range(1, VERSION + 1))
"""What says the version in PostgreSQL, by its number."""


def statements_after(version: int) -> tuple[str, ...]:
    """Return what brings records of a version to today's; 0 where there are none."""
    return tuple(statement for step in _STEPS[version:] for statement in step)


def in_postgres(statement: str) -> str:
    """Return a statement of ours in PostgreSQL's words."""
    words = {"BLOB": "BYTEA", " WITHOUT ROWID": "", "id INTEGER PRIMARY KEY": "id BIGSERIAL PRIMARY KEY"}
    for ours, theirs in words.items():
        statement = statement.replace(ours, theirs)
    return statement

"""The exit codes of commands, and which error ends with which code.

0    done
1    refused, or a problem was found: no consent, a failed tool, a broken audit chain, a failed check
2    the command line, `config.toml` or an argument is wrong
3    the journal cannot be read or written, or there is an error in this program
130  interrupted (Ctrl-C, SIGTERM, a terminal that was closed)
141  whoever read the output went away (`ally-plugins audit | head`)
"""

from __future__ import annotations

from typing import Final

__all__ = ["BROKEN_PIPE", "DONE", "FAILED", "INTERRUPTED", "REFUSED", "USAGE", "exit_code_of"]

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
FAILED: Final = 3
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""
BROKEN_PIPE: Final = 141
"""128 and the number of SIGPIPE, as shells have it."""


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of an error that ends a command."""
    from ally_plugins.contract.values.errors import AllyError, ArgumentsError, AuditError, ConfigError, JournalError

    if isinstance(error, (ConfigError, ArgumentsError)):
        return USAGE
    # A chain that does not hold is a finding of `audit verify` (1), and no journal that cannot be read (3).
    if isinstance(error, JournalError) and not isinstance(error, AuditError):
        return FAILED
    return REFUSED if isinstance(error, AllyError) else FAILED

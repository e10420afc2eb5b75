"""What a daemon sees of the host's environment: names on a list, what the operator granted, what was set for it.

A pure function; who granted what is left to `catalog`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["ALLOWED", "ALLOWED_ON_WINDOWS", "child_environment"]

ALLOWED: Final = frozenset(
    {
        "PATH",  # finds the interpreter and what the daemon runs itself
        "HOME",  # programs find their own files by it
        "USER",
        "LOGNAME",
        "LANG",  # with LC_*: how text is encoded, sorted and shown
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",  # where the machine's own certificates lie; a path, no secret
        "SSL_CERT_DIR",
    }
)
"""Names that every daemon sees. Not TERM (it has no terminal), not PYTHON* and LD_* (they change what code runs), not
*_proxy (a password may stand in it), not VIRTUAL_ENV (the host's own), not XDG_* (they follow from HOME): these must be
granted."""

ALLOWED_ON_WINDOWS: Final = frozenset(
    {
        "SYSTEMROOT",  # without it sockets and random numbers fail
        "SYSTEMDRIVE",
        "WINDIR",
        "COMSPEC",
        "PATHEXT",  # which files are programs
        "TEMP",
        "TMP",
        "USERNAME",
        "USERPROFILE",
        "HOMEDRIVE",
        "HOMEPATH",
        "APPDATA",
        "LOCALAPPDATA",
        "PROGRAMDATA",
        "PROGRAMFILES",
        "NUMBER_OF_PROCESSORS",
        "PROCESSOR_ARCHITECTURE",
    }
)
"""What Windows programs need besides; no such names are in use elsewhere, so the list holds everywhere."""

_SHELL: Final = {"SHLVL": "1"}
"""The variable in which shells count how deep they are. Standard input is a socket here, and a `bash -c` that is the
first shell on a socket takes itself for one of rshd's: it would run ~/.bashrc, whose output would be the plugin's."""

_PREFIX: Final = "LC_"
_OURS: Final = "ALLY_"


def child_environment(
    host: Mapping[str, str], granted: Iterable[str] = (), added: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return a daemon's environment: of `host` what is allowed or granted by name, and then what is set for it.

    Nothing of the host's ALLY_* is passed on, not even when it is granted: a token of another daemon may stand there.
    """
    names = ALLOWED | ALLOWED_ON_WINDOWS | set(granted)
    seen = {name: value for name, value in host.items() if _is_seen(name, names)}
    return {**_SHELL, **seen, **(added or {})}


def _is_seen(name: str, names: frozenset[str]) -> bool:
    # In any case of letters: to Windows they are one name.
    if name.upper().startswith(_OURS):
        return False
    return name in names or name.startswith(_PREFIX)

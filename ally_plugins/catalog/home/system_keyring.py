"""The system's keyring: whether there is one that can be used, and its calls within a bound.

A locked one may wait for a prompt that nobody sees, and some wait for services that do not run; nobody may wait with
them. What is kept in it is left to `secret_store`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

from attrs import frozen

from ally_plugins.catalog.bounded_calls import BoundedCalls

__all__ = ["USE_A_FILE", "FoundKeyring", "call_keyring", "describe_silence", "find_keyring"]

KEYRING_TIMEOUT: Final = 8.0
"""Seconds that one call may take, and finding it. A keyring answers in milliseconds, and a person who is asked to
unlock one takes longer than anybody should wait unknowingly: the next try finds it unlocked. Less than the 10 s that
other commands wait for a home in which one is editing."""

_VARIABLE: Final = "PYTHON_KEYRING_BACKEND"

USE_A_FILE: Final = f"unlock it, or set {_VARIABLE}=keyring.backends.null.Keyring to use a file instead"
"""The way out where a keyring does not work."""

_REAL: Final = 1
"""The least priority of a keyring that the system protects; the null, failing and plain-text ones have less."""

T = TypeVar("T")


@frozen
class FoundKeyring:
    """A keyring, or why there is none to use (`problem`) and what would change that (`remedy`), both in words."""

    backend: Any = None
    problem: str = ""
    remedy: str = ""
    is_silent: bool = False
    """Whether it did not answer: there may be one, with secrets in it."""


_calls: Final = BoundedCalls("ally-keyring")


def call_keyring(function: Callable[..., T], *arguments: Any) -> T:
    """Call a method of a keyring and return its result.

    Blocks, `KEYRING_TIMEOUT` at most; raises TimeoutError then, and at once as long as that call has not returned.
    Raises what the keyring raises.
    """
    return _calls.run(KEYRING_TIMEOUT, function, *arguments)


def find_keyring() -> FoundKeyring:
    """Look for the system's keyring. Blocks, `KEYRING_TIMEOUT` at most; raises nothing."""
    # Before the import of keyring: who turns it off need not have one that works, nor wait for it.
    if os.environ.get(_VARIABLE, "").endswith("null.Keyring"):
        return FoundKeyring(problem=f"{_VARIABLE} turns the system's keyring off")
    try:
        return _calls.run(KEYRING_TIMEOUT, _found)
    except TimeoutError:
        return FoundKeyring(problem=describe_silence(), remedy=USE_A_FILE, is_silent=True)


def describe_silence() -> str:
    """Return what is wrong with a keyring whose call raised TimeoutError."""
    return f"the system keyring did not answer within {KEYRING_TIMEOUT:g} s"


def _found() -> FoundKeyring:
    try:
        import keyring  # an optional dependency; 100 ms, and only for plugins with secrets
    except Exception as error:  # noqa: BLE001 - as below
        if isinstance(error, ModuleNotFoundError) and error.name == "keyring":
            remedy = "for the system's keyring: pip install 'ally-plugins[keyring]'"
            return FoundKeyring(problem="the package keyring is not installed", remedy=remedy)
        return _unusable(f"cannot be imported ({type(error).__name__}: {error})")
    try:
        backend = keyring.get_keyring()
        is_real = backend.priority >= _REAL
    except Exception as error:  # noqa: BLE001 - backends call the desktop, D-Bus and others, and fail in ways of their own
        return _unusable(f"cannot be used ({type(error).__name__}: {error})")
    if is_real:
        return FoundKeyring(backend)
    kind = type(backend)
    return _unusable(f"has found none that this system protects (only {kind.__module__}.{kind.__qualname__})")


def _unusable(why: str) -> FoundKeyring:
    remedy = (
        "start the desktop's keyring (GNOME Keyring, KWallet, KeePassXC), which `keyring diagnose` and "
        "`keyring --list-backends` help with; on a machine without one the file is the place"
    )
    return FoundKeyring(problem=f"the package keyring is installed and {why}", remedy=remedy)

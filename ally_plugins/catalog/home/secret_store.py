"""Where secrets are kept: the system's keyring, or a file that only its owner may read. Never in `config.toml`.

A home's entries in the keyring go by a random id, which the home keeps: it stays the same however the home's path is
spelt and whichever app uses it. Which settings are secrets is the manifests' business.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson

from ally_plugins.contract.documents import text_of
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.masking import Secret

from .folder import MAX_STATE_BYTES
from .system_keyring import USE_A_FILE, FoundKeyring, call_keyring, describe_silence, find_keyring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .folder import Home

__all__ = ["NotFoundHere", "SecretStore"]

_ID: Final = re.compile(rb"([0-9a-f]{32})\n?\Z")

_OLD_APP: Final = "ally-plugins"
"""The command's own app, under whose name entries were kept before there were ids."""


class NotFoundHere(ConfigError):
    """A secret is not found, and may stand where it cannot be looked for; its text says why."""


class SecretStore:
    """The secrets of one home. The keyring is imported at the first use, not before.

    Every method blocks: on files, and on the keyring for `KEYRING_TIMEOUT` at most in each of its calls.
    """

    def __init__(self, home: Home) -> None:
        self._home: Final = home
        self._found: FoundKeyring | None = None

    @property
    def keyring(self) -> FoundKeyring:
        """The keyring in which the next secret would be kept, or why that would be a file."""
        if self._found is None:
            self._found = find_keyring()
        return self._found

    @property
    def place(self) -> str:
        """Where the next secret would be kept, as text: the system keyring or the path of the file."""
        found = self.keyring
        return "the system keyring" if found.backend or found.is_silent else str(self._home.secrets_file)

    def get(self, plugin: str, key: str) -> Secret | None:
        """Return a secret, None when there is none. Raises ConfigError when the place cannot be read.

        The file is read first: what stands there was set after whatever a keyring has.
        """
        value = self._read().get(plugin, {}).get(key)
        if isinstance(value, str):
            return Secret(value)
        if (backend := self._backend(plugin, key)) is not None:
            for service in self._services():
                value = self._call(backend.get_password, service, plugin, key)
                if isinstance(value, str):
                    return Secret(value)
        return None

    def lookup(self, plugin: str, key: str) -> Secret | None:
        """Return a secret as `get` does. Raises NotFoundHere where it may be in a keyring that cannot be used now."""
        value = self.get(plugin, key)
        # A home with an id has put secrets into a keyring.
        if value is None and self.keyring.backend is None and self._id() is not None:
            raise NotFoundHere(f"it may be in the system keyring, which is out of reach: {self.keyring.problem}")
        return value

    def set(self, plugin: str, key: str, value: str) -> None:
        """Keep a secret. The caller holds `home.locked()`. Raises ConfigError when it cannot be kept."""
        backend = self._backend(plugin, key)
        if backend is not None:
            service = _service(self._id() or self._new_id())
            # First into the keyring, then out of the file: what fails in between leaves the old value there, never none
            # at all.
            self._call(backend.set_password, service, plugin, key, value)
            self._write(plugin, key, None)
            with suppress(ConfigError):  # it is kept; an old one counts for nothing as long as this one is there
                self._delete_entries(backend, self._old_services(), plugin, key)
        else:
            self._write(plugin, key, value)

    def delete(self, plugin: str, key: str) -> None:
        """Delete a secret, wherever it is. The caller holds `home.locked()`. Raises ConfigError when that fails."""
        backend = self._backend(plugin, key)
        if backend is not None:
            self._delete_entries(backend, self._services(), plugin, key)
        self._write(plugin, key, None)

    # --- the keyring ---

    def _backend(self, plugin: str, key: str) -> Any:
        """Return the keyring's backend, None when there is none. Raises ConfigError when it does not answer."""
        if self.keyring.is_silent:
            self._found = None  # it may answer the next time
            raise _silent(plugin, key)
        return self.keyring.backend

    def _services(self) -> Iterator[str]:
        """Yield the names under which this home's entries may stand, the one of today first."""
        if (own := self._id()) is not None:
            yield _service(own)
        yield from self._old_services()

    def _old_services(self) -> Iterator[str]:
        """Yield the names of before there were ids: of the app, and of the home's path as it was spelt."""
        for app in dict.fromkeys((self._home.app, _OLD_APP)):
            for path in dict.fromkeys((str(self._home.path), os.path.realpath(self._home.path))):
                yield _service(f"{app}:{path}")

    def _delete_entries(self, backend: Any, services: Iterator[str], plugin: str, key: str) -> None:
        for service in services:
            if self._call(backend.get_password, service, plugin, key) is not None:
                self._call(backend.delete_password, service, plugin, key)

    def _call(self, method: Callable[..., Any], service: str, plugin: str, key: str, *value: str) -> Any:
        try:
            return call_keyring(method, service, f"{plugin}/{key}", *value)
        except TimeoutError:
            raise _silent(plugin, key) from None
        except Exception as error:  # noqa: BLE001 - backends raise what their systems raise
            message = f"the system keyring does not answer for {plugin}/{key}: {type(error).__name__}; {USE_A_FILE}"
            path = f"plugins.{plugin}.settings.{key}"
            raise ConfigError(message, path=path) from None  # the cause may quote the secret

    def _id(self) -> str | None:
        """Return the home's id, None while it has none. Raises ConfigError when the file cannot be read."""
        file = self._home.keyring_id_file
        try:
            content = self._home.read(file, MAX_STATE_BYTES)
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror or error}", file=str(file)) from None
        if content is None:
            return None
        if (found := _ID.match(content)) is None:
            text = f"{file} holds no id of 32 hexadecimal digits; restore it, or remove it and set the secrets again"
            raise ConfigError(text, file=str(file))
        return found[1].decode()

    def _new_id(self) -> str:
        file, made = self._home.keyring_id_file, os.urandom(16).hex()
        try:
            self._home.write(file, f"{made}\n".encode(), MAX_STATE_BYTES, private=True)
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror or error}", file=str(file)) from None
        return made

    # --- the file ---

    def _read(self) -> dict[str, dict[str, Any]]:
        file = self._home.secrets_file
        try:
            content = self._home.read(file, MAX_STATE_BYTES)
            kept = orjson.loads(text_of(b"{}" if content is None else content))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"{file} cannot be read: {reason}", file=str(file)) from None
        # `from None`: the decoder's error carries all the text that it could not read.
        except ValueError:
            raise ConfigError(f"{file} cannot be read as JSON; restore or remove it", file=str(file)) from None
        if not isinstance(kept, dict) or not all(isinstance(entry, dict) for entry in kept.values()):
            raise ConfigError(f"{file} does not hold secrets by plugin; restore or remove it", file=str(file))
        return kept

    def _write(self, plugin: str, key: str, value: str | None) -> None:
        kept = self._read()
        if value is None and key not in kept.get(plugin, {}):
            return
        entry = {name: old for name, old in kept.get(plugin, {}).items() if name != key}
        if value is not None:
            entry[key] = value
        kept[plugin] = entry
        file = self._home.secrets_file
        try:
            content = orjson.dumps({name: entry for name, entry in kept.items() if entry})
            self._home.write(file, content, MAX_STATE_BYTES, private=True)
        # TypeError is orjson's, for half of a surrogate pair.
        except (OSError, TypeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
            raise ConfigError(f"a secret of {plugin!r} cannot be kept in {file}: {reason}", file=str(file)) from None


def _service(name: str) -> str:
    return f"ally-plugins:{name}"


def _silent(plugin: str, key: str) -> ConfigError:
    text = f"{describe_silence()} for {plugin}/{key}; {USE_A_FILE}"
    return ConfigError(text, path=f"plugins.{plugin}.settings.{key}")

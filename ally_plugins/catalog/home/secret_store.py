"""Where secrets are kept: the system's keyring, or a file that only its owner may read. Never in `config.toml`.

Which settings are secrets is the manifests' business.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import orjson

from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from .folder import Home

__all__ = ["SecretStore"]

_MAX_BYTES: Final = 1024 * 1024

_REAL: Final = 1
"""The least priority of a keyring that the system protects; the null, failing and plain-text ones have less."""

_WAY_OUT: Final = "unlock it, or set PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring to use a file instead"


class SecretStore:
    """The secrets of one home. The keyring is imported at the first use, not before."""

    def __init__(self, home: Home) -> None:
        self._home: Final = home
        self._service: Final = f"ally-plugins:{home.app}:{home.path}"
        self._keyring: Any = None
        self._is_looked_up = False

    @property
    def place(self) -> str:
        """Where the next secret would be kept, as text: the system keyring or the path of the file."""
        return "the system keyring" if self._backend() is not None else str(self._home.secrets_file)

    def get(self, plugin: str, key: str) -> str | None:
        """Return a secret, None when there is none. Raises ConfigError when the place cannot be read."""
        backend = self._backend()
        if backend is not None:
            value = self._call_keyring(backend.get_password, plugin, key)
            if isinstance(value, str):
                return value
        value = self._read().get(plugin, {}).get(key)
        return value if isinstance(value, str) else None

    def set(self, plugin: str, key: str, value: str) -> None:
        """Keep a secret. The caller holds `home.locked()`. Raises ConfigError when it cannot be kept."""
        backend = self._backend()
        if backend is not None:
            self._call_keyring(backend.set_password, plugin, key, value)
            self._write(plugin, key, None)
        else:
            self._write(plugin, key, value)

    def delete(self, plugin: str, key: str) -> None:
        """Delete a secret, wherever it is. The caller holds `home.locked()`. Raises ConfigError when that fails."""
        backend = self._backend()
        if backend is not None and self._call_keyring(backend.get_password, plugin, key) is not None:
            self._call_keyring(backend.delete_password, plugin, key)
        self._write(plugin, key, None)

    def _backend(self) -> Any:
        if not self._is_looked_up:
            self._is_looked_up = True
            self._keyring = _real_keyring()
        return self._keyring

    def _call_keyring(self, method: Any, plugin: str, key: str, *value: str) -> Any:
        try:
            return method(self._service, f"{plugin}/{key}", *value)
        except Exception as error:  # noqa: BLE001  # backends raise what their systems raise
            message = f"the system keyring does not answer for {plugin}/{key}: {type(error).__name__}; {_WAY_OUT}"
            raise ConfigError(
                message, path=f"plugins.{plugin}.settings.{key}"
            ) from None  # the cause may quote the secret

    def _read(self) -> dict[str, dict[str, Any]]:
        file = self._home.secrets_file
        try:
            content = self._home.read(file, _MAX_BYTES)
            kept = orjson.loads(b"{}" if content is None else content)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"{file} cannot be read: {reason}", file=str(file)) from None
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
            self._home.write(file, content, private=True)
        except (OSError, TypeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
            raise ConfigError(f"a secret of {plugin!r} cannot be kept in {file}: {reason}", file=str(file)) from None


def _real_keyring() -> Any:
    if os.environ.get("PYTHON_KEYRING_BACKEND", "").endswith("null.Keyring"):
        return None
    try:
        import keyring  # an optional dependency; 100 ms, and only for plugins with secrets

        backend = keyring.get_keyring()
        is_real = backend.priority >= _REAL
    except Exception:  # noqa: BLE001  # backends call the desktop, D-Bus and others, and fail in ways of their own
        return None
    return backend if is_real else None

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.home import secret_store
from ally_plugins.catalog.home.secret_store import SecretStore
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home


class Keyring:
    """What a desktop's keyring does, in memory."""

    priority = 5

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.is_locked = False

    def _check(self) -> None:
        if self.is_locked:
            raise RuntimeError("locked while holding hunter2")

    def get_password(self, service: str, name: str) -> str | None:
        self._check()
        return self.kept.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        self._check()
        self.kept[service, name] = value

    def delete_password(self, service: str, name: str) -> None:
        self._check()
        del self.kept[service, name]


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> Keyring:
    made = Keyring()
    monkeypatch.setattr(secret_store, "_real_keyring", lambda: made)
    return made


@pytest.fixture
def in_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> SecretStore:
    monkeypatch.setattr(secret_store, "_real_keyring", lambda: None)
    home.prepare()
    return SecretStore(home)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"p": 3}', b"\xff", b"[" * 100_000], ids=lambda content: repr(content[:8])
)
def test_a_damaged_file_is_told_and_not_overwritten(in_file: SecretStore, home: Home, content: bytes) -> None:
    home.secrets_file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"secrets\.json"):
        in_file.get("p", "k")
    with pytest.raises(ConfigError, match=r"secrets\.json"):
        in_file.set("p", "k", "v")
    assert home.secrets_file.read_bytes() == content


def test_without_a_keyring_secrets_are_in_a_file_of_the_owner(in_file: SecretStore, home: Home) -> None:
    assert in_file.get("p", "k") is None
    in_file.set("p", "k", "hunter2")
    in_file.set("q", "k", "other")
    assert (in_file.get("p", "k"), in_file.get("q", "k")) == ("hunter2", "other")
    assert in_file.place == str(home.secrets_file)
    in_file.delete("p", "k")
    in_file.delete("p", "k")
    assert in_file.get("p", "k") is None
    assert b"hunter2" not in home.secrets_file.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="modes mean something else there")
def test_a_file_that_others_could_read_is_made_private_at_the_next_write(in_file: SecretStore, home: Home) -> None:
    in_file.set("p", "k", "1")
    home.secrets_file.chmod(0o644)
    in_file.set("p", "k", "2")
    assert home.secrets_file.stat().st_mode & 0o777 == 0o600


def test_text_that_cannot_be_written_is_refused_without_being_shown(in_file: SecretStore) -> None:
    with pytest.raises(ConfigError) as caught:
        in_file.set("p", "k", "hunter2\ud800")
    assert "hunter2" not in str(caught.value)


def test_with_a_keyring_nothing_is_in_a_file(keyring: Keyring, home: Home) -> None:
    home.prepare()
    store = SecretStore(home)
    store.set("p", "k", "hunter2")
    assert store.get("p", "k") == "hunter2"
    assert store.place == "the system keyring"
    assert not home.secrets_file.exists()
    store.delete("p", "k")
    assert keyring.kept == {}
    assert store.get("p", "k") is None


def test_a_secret_moves_from_the_file_to_the_keyring(
    home: Home, in_file: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file.set("p", "k", "old")
    made = Keyring()
    monkeypatch.setattr(secret_store, "_real_keyring", lambda: made)
    store = SecretStore(home)
    assert store.get("p", "k") == "old"
    store.set("p", "k", "new")
    assert store.get("p", "k") == "new"
    assert b"old" not in home.secrets_file.read_bytes()


def test_two_homes_do_not_share_a_keyrings_secrets(keyring: Keyring, home: Home) -> None:
    home.prepare()
    other = type(home)(home.app, home.path.parent / "other")
    other.prepare()
    SecretStore(home).set("p", "k", "hunter2")
    assert SecretStore(other).get("p", "k") is None
    assert len(keyring.kept) == 1


def test_a_locked_keyring_is_told_without_what_it_holds(keyring: Keyring, home: Home) -> None:
    home.prepare()
    store = SecretStore(home)
    keyring.is_locked = True
    with pytest.raises(ConfigError, match="does not answer") as caught:
        store.get("p", "k")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("priority", [0, -1, 0.5])
def test_a_keyring_that_protects_nothing_is_not_used(monkeypatch: pytest.MonkeyPatch, priority: float) -> None:
    keyring: Any = pytest.importorskip("keyring")

    class Weak(Keyring):
        pass

    weak = Weak()
    weak.priority = priority  # type: ignore[assignment]
    monkeypatch.setattr(keyring, "get_keyring", lambda: weak)
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)
    assert secret_store._real_keyring() is None
    weak.priority = 1
    assert secret_store._real_keyring() is weak


def test_a_keyring_that_fails_to_load_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert secret_store._real_keyring() is None

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.bounded_calls import BoundedCalls
from ally_plugins.catalog.home import secret_store, system_keyring
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.home.secret_store import SecretStore
from ally_plugins.catalog.home.setting_values import resolve_settings
from ally_plugins.catalog.home.system_keyring import FoundKeyring, find_keyring
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    monkeypatch.setattr(secret_store, "find_keyring", lambda: FoundKeyring(made))
    return made


@pytest.fixture
def in_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> SecretStore:
    monkeypatch.setattr(secret_store, "find_keyring", FoundKeyring)
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
    monkeypatch.setattr(secret_store, "find_keyring", lambda: FoundKeyring(made))
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
    found = find_keyring()
    assert found.backend is None
    assert "is installed and has found none that this system protects (only " in found.problem
    assert "Weak" in found.problem
    weak.priority = 1
    assert find_keyring().backend is weak


@pytest.mark.parametrize(
    ("error", "problem", "remedy"),
    [
        (ModuleNotFoundError("no module", name="keyring"), "is not installed", "pip install 'ally-plugins[keyring]'"),
        (ModuleNotFoundError("no jeepney", name="jeepney"), "installed and cannot be imported", "keyring diagnose"),
        (OSError("no bus"), "installed and cannot be imported", "keyring diagnose"),
    ],
)
def test_why_no_keyring_is_used_and_what_helps_follow_from_what_is_there(
    monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str, remedy: str
) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "keyring":
                raise error

    monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)
    monkeypatch.delitem(sys.modules, "keyring", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    found = find_keyring()
    assert found.backend is None
    assert problem in found.problem
    assert remedy in found.remedy


def test_a_keyring_that_is_turned_off_is_no_fault_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    assert find_keyring() == FoundKeyring(problem="PYTHON_KEYRING_BACKEND turns the system's keyring off")


class Locked(Keyring):
    """It waits for a prompt that nobody sees, until the test opens it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.asked = 0

    def _check(self) -> None:
        self.asked += 1
        self.opened.wait()


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Locked]:
    made = Locked()
    monkeypatch.setattr(system_keyring, "KEYRING_TIMEOUT", 0.05)
    monkeypatch.setattr(system_keyring, "_calls", BoundedCalls("ally-keyring"))
    monkeypatch.setattr(secret_store, "find_keyring", lambda: FoundKeyring(made))
    yield made
    made.opened.set()


def test_a_keyring_that_waits_for_a_prompt_is_waited_for_once_and_asked_again_when_it_is_open(
    locked: Locked, home: Home
) -> None:
    home.prepare()
    locked.kept["ally-plugins:" + f"{home.app}:{home.path}", "p/k"] = "hunter2"
    for store in [SecretStore(home)] * 20:
        with pytest.raises(ConfigError, match=r"did not answer within \S+ s for p/k; unlock it"):
            store.get("p", "k")
        with pytest.raises(ConfigError, match="did not answer"):
            store.set("p", "k", "v")
    assert locked.asked == 1
    assert not home.secrets_file.exists()
    late = system_keyring._calls.late
    assert late is not None
    locked.opened.set()
    late.join()
    assert SecretStore(home).get("p", "k") == "hunter2"


def test_a_keyring_that_cannot_even_be_looked_for_is_not_taken_for_none(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    opened = threading.Event()
    monkeypatch.setattr(system_keyring, "KEYRING_TIMEOUT", 0.05)
    monkeypatch.setattr(system_keyring, "_calls", BoundedCalls("ally-keyring"))
    monkeypatch.setattr(system_keyring, "_found", lambda: opened.wait() and FoundKeyring())
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)
    home.prepare()
    store = SecretStore(home)
    try:
        for method, arguments in ((store.set, ("p", "k", "v")), (store.get, ("p", "k")), (store.delete, ("p", "k"))):
            with pytest.raises(ConfigError, match="did not answer"):
                method(*arguments)
        assert not home.secrets_file.exists()
        assert store.place == "the system keyring"
    finally:
        opened.set()


# --- whose entries they are


@pytest.mark.parametrize("spelling", ["link", "other/../home", "./home/"])
def test_a_home_has_its_secrets_by_whatever_name_and_app_it_is_used(
    keyring: Keyring, tmp_path: Path, spelling: str
) -> None:
    home = Home("mine", tmp_path / "home")
    home.prepare()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("home")
    SecretStore(home).set("p", "k", "hunter2")
    again = SecretStore(Home("yours", Path(f"{tmp_path}/{spelling}")))
    assert again.get("p", "k") == "hunter2"
    again.set("p", "k", "hunter3")
    assert SecretStore(home).get("p", "k") == "hunter3"
    assert len(keyring.kept) == 1
    assert home.keyring_id_file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("app", ["mine", "ally-plugins"])
def test_an_entry_of_before_there_were_ids_is_found_and_goes_with_the_next_change(
    keyring: Keyring, tmp_path: Path, app: str
) -> None:
    home = Home("mine", tmp_path / "home")
    home.prepare()
    (tmp_path / "link").symlink_to("home")
    old = {(f"ally-plugins:{app}:{home.path}", f"p/{key}"): f"old-{key}" for key in "ab"}
    keyring.kept |= old
    store = SecretStore(Home("mine", tmp_path / "link"))
    assert [store.get("p", key) for key in "ab"] == ["old-a", "old-b"]
    store.set("p", "a", "new-a")
    store.delete("p", "b")
    assert [store.get("p", key) for key in "ab"] == ["new-a", None]
    assert list(keyring.kept.values()) == ["new-a"]


@pytest.mark.parametrize("content", [b"", b"../../other\n", b"a" * 31, b"\xff" * 32])
def test_a_damaged_id_is_told_and_never_replaced(keyring: Keyring, home: Home, content: bytes) -> None:
    home.prepare()
    home.keyring_id_file.write_bytes(content)
    home.keyring_id_file.chmod(0o600)
    store = SecretStore(home)
    calls: list[Callable[[], object]] = [lambda: store.get("p", "k"), lambda: store.set("p", "k", "v")]
    for call in calls:
        with pytest.raises(ConfigError, match=r"keyring\.id holds no id of 32 hexadecimal digits"):
            call()
    assert home.keyring_id_file.read_bytes() == content
    assert keyring.kept == {}


def test_a_secret_that_is_needed_and_may_be_in_a_keyring_that_cannot_be_used_is_not_just_told_as_not_set(
    keyring: Keyring, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.prepare()
    SecretStore(home).set("p", "needed", "hunter2")
    problem = "the package keyring is installed and has found none"
    monkeypatch.setattr(secret_store, "find_keyring", lambda: FoundKeyring(problem=problem))
    settings = {name: {"type": "string", "secret": True, "required": name == "needed"} for name in ("needed", "other")}
    manifest = Manifest.from_mapping({"settings": settings})
    store = SecretStore(home)
    values, (told,) = resolve_settings("p", manifest, {}, store.lookup)
    assert "required and not set: ally-plugins config p needed" in told
    assert told.endswith(f"; it may be in the system keyring, which is out of reach: {problem}")
    assert values == {"needed": None, "other": None}
    store.set("p", "needed", "again")
    assert resolve_settings("p", manifest, {}, store.lookup)[1] == ()
    assert keyring.kept != {}


def test_what_was_set_in_the_file_counts_over_an_older_entry_of_a_keyring(
    keyring: Keyring, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.prepare()
    SecretStore(home).set("p", "k", "older")
    monkeypatch.setattr(secret_store, "find_keyring", FoundKeyring)
    SecretStore(home).set("p", "k", "newer")
    monkeypatch.setattr(secret_store, "find_keyring", lambda: FoundKeyring(keyring))
    assert SecretStore(home).get("p", "k") == "newer"

from __future__ import annotations

import os
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins import Host
from ally_plugins.catalog.environments.build import plan as plan_environment
from ally_plugins.catalog.home import folder as home_module
from ally_plugins.catalog.home.folder import Home, read_capped, try_lock, write_atomically
from ally_plugins.cli.shell.main import cli
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

pwd = pytest.importorskip("pwd") if sys.platform != "win32" else None
posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and links mean something else there")


@pytest.mark.parametrize("app", ["", ".", "..", "../other", "a/b", "a\\b", "a\0b", "\x1b[2J", "x" * 65, "C:x"])
def test_an_app_cannot_name_its_way_out_of_its_directory(app: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Home(app)
    assert str(caught.value).isprintable()


def test_two_apps_have_two_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLY_HOME", raising=False)
    assert Home("one").path != Home("two").path
    assert Home("one").path.name == "one"


def test_ally_home_overrides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALLY_HOME", str(tmp_path / "here"))
    assert Home("one").path == tmp_path / "here"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALLY_HOME", "relative")
    home = Home("one")
    monkeypatch.chdir("/")
    assert home.path == tmp_path / "relative"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user without HOME and without an entry in passwd, as in a container that runs under any number."""

    def find(who: object) -> None:
        raise KeyError(who)

    for name in ("HOME", "ALLY_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, find)


@posix
@pytest.mark.usefixtures("homeless")
def test_where_no_home_directory_is_known_the_way_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for make in (Home, Host):
        with pytest.raises(ConfigError, match=r"HOME is not set\); set ALLY_HOME to a folder for the state of 'one'"):
            make("one")
    for command in (["list"], ["doctor", "--json"], ["enable", "x", "--yes"]):
        with pytest.raises(SystemExit):
            cli.main(command)
        shown = capsys.readouterr()
        assert "ALLY_HOME" in shown.err + shown.out
        assert "error in this program" not in shown.err


@posix
@pytest.mark.usefixtures("homeless")
def test_with_ally_home_no_home_directory_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALLY_HOME", str(tmp_path))
    assert Host("one").home == Home("one", tmp_path)
    assert plan_environment(Home("one"), "it", ["x"]).commands


@posix
@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("home", ["", "here"])
def test_a_home_that_is_no_absolute_path_is_none(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    with pytest.raises(ConfigError, match=rf"HOME is '{home}'\); set ALLY_HOME"):
        Home("one")


@posix
@pytest.mark.parametrize("named", ["~nobody-of-this-name/x", "gone"])
def test_a_path_that_leads_nowhere_is_an_operators_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    (tmp_path / "was").mkdir()
    monkeypatch.chdir(tmp_path / "was")
    (tmp_path / "was").rmdir()
    with pytest.raises(SystemExit):
        cli.main(["list", "--home", named])
    assert f"--home: '{named}' " in capsys.readouterr().err
    monkeypatch.setenv("ALLY_HOME", named)
    with pytest.raises(ConfigError, match=r"ALLY_HOME: .* expected an absolute path"):
        Home("one")


@posix
def test_the_run_directory_is_its_owners_only_even_when_it_was_not(home: Home) -> None:
    home.run_dir.mkdir(parents=True)
    home.run_dir.chmod(0o777)
    home.prepare()
    assert stat.S_IMODE(home.run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.data_dir("p").stat().st_mode) == 0o700


def test_a_home_that_is_a_file_is_an_operators_error(home: Home) -> None:
    home.path.write_text("")
    with pytest.raises(ConfigError, match="ALLY_HOME"):
        home.prepare()


def test_two_edits_do_not_overlap(home: Home) -> None:
    order: list[str] = []
    entered = threading.Event()
    home.prepare()

    def second() -> None:
        entered.set()
        with home.locked():
            order.append("second")

    with home.locked():
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_that_is_never_let_go_is_reported(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module, "LOCK_TIMEOUT", 0.0)

    def wait_in_another_thread() -> None:
        with pytest.raises(ConfigError, match="another command"), home.locked():
            pass

    with home.locked(), ThreadPoolExecutor(1) as other:
        other.submit(wait_in_another_thread).result()
    with home.locked():
        pass


def test_who_holds_the_lock_may_take_it_again_and_has_it_until_the_first_is_let_go(home: Home) -> None:
    with home.locked():
        with home.locked():
            pass
        lock = home.open_lock("edit.lock")
        assert not try_lock(lock)
        os.close(lock)


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"one")
    write_atomically(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


@posix
def test_an_old_file_keeps_its_mode_under_any_umask_and_a_private_one_gets_none_of_it(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"")
    file.chmod(0o664)
    before = os.umask(0o077)
    try:
        write_atomically(file, b"new")
        assert stat.S_IMODE(file.stat().st_mode) == 0o664
        os.umask(0)
        write_atomically(file, b"new", private=True)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root gives a file to any group")
def test_what_a_group_may_do_with_an_old_file_another_group_does_not_get(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"")
    file.chmod(0o664)
    os.chown(file, -1, os.getegid() + 1)
    before = os.umask(0o022)
    try:
        write_atomically(file, b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


@posix
def test_a_new_file_is_private_and_an_old_one_keeps_its_mode_unless_it_must_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    write_atomically(file, b"")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    write_atomically(file, b"", private=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    target = tmp_path / "dotfiles" / "config.toml"
    target.write_text("old")
    link = tmp_path / "config.toml"
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.parametrize("step", ["fsync", "write"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(*(("os.fsync", fail) if step == "fsync" else (home_module, "_write_new", fail)))
    with pytest.raises(OSError, match="no space"):
        write_atomically(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def oversized(path: Path) -> None:
    path.write_bytes(b"x" * 11)


def directory(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


@posix
@pytest.mark.parametrize("make", [oversized, directory, loop, pipe], ids=lambda make: make.__name__)
def test_what_is_no_small_regular_file_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(OSError):  # noqa: PT011  # each platform has a text of its own
        read_capped(tmp_path / "x", 10)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_capped(tmp_path / "x", 10) is None
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_capped(tmp_path / "file" / "x", 10) is None
    assert read_capped(tmp_path / "file", 10) == b"0123456789"

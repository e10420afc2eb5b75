"""The files of a home that are missing, torn or strange: an error with the way out, and never a host without guards."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall, ToolResult
from ally_plugins.catalog.home.config_edits import edit_config
from ally_plugins.catalog.home.consent import Agreement, write_consent
from ally_plugins.catalog.home.failed_starts import failed_starts, remember_starts
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.errors import ConfigError, ConsentError, OperatorError
from ally_plugins.journal.owned_files import check_folder, open_file, read_file
from ally_plugins.policy.owned_files import fault_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.kit.sites import Site

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, owners and modes are POSIX's")
as_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="SKIPPED: only root gives files to others"
)

NOBODY = 65534
GATE = 'description = "d"\n[permissions]\ngate = { on = ["tool_call"], reason = "to stop it" }\n'
DENIES = """
from ally_plugins import Deny, hookimpl

class Plugin:
    def __init__(self, ally):
        pass

    @hookimpl
    def ally_gate_tool_call(self, call, context):
        return Deny("the guard says no")
"""


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def link(path: Path) -> None:
    real = path.with_name(f"{path.name}.real")
    if path.exists():
        path.rename(real)
    path.symlink_to(real)


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def plug(path: Path) -> None:
    path.unlink(missing_ok=True)
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as sock:
        os.chdir(path.parent)  # a socket's path may have a hundred bytes only
        try:
            sock.bind(path.name)
        finally:
            os.chdir(here)


def open_to_all(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def open_to_a_group(path: Path) -> None:
    path.touch()
    path.chmod(0o660)
    os.chown(path, -1, NOBODY)


def foreign(path: Path) -> None:
    path.touch()
    os.chown(path, NOBODY, -1)


KINDS = [pipe, folder, endless, plug, open_to_all]
if sys.platform != "win32" and os.geteuid() == 0:
    KINDS += [foreign, open_to_a_group]


@pytest.fixture
def registry(home: Home, site: Site) -> Iterator[Registry]:
    for name in ("guard", "other"):
        site.plugin(name, GATE, code=DENIES)
    registry = Registry(home, now=lambda: 1.0)
    for name in ("guard", "other"):
        registry.enable(registry.plan(name, placement="inline"))
    yield registry
    for name in ("guard", "other"):  # the hosts of a test have imported them
        sys.modules.pop(name, None)


def asked(home: Home) -> str:
    """Return the verdict that a new host gives on a call, and why; or the error that it ends with."""

    async def main() -> str:
        async with Host("test", home=home.path) as host:
            ruling: Any = await host.session("s").gate_tool_call(ToolCall("bash", {"command": "ls"}, "c1"))
            return repr(ruling.verdict)

    try:
        return asyncio.run(asyncio.wait_for(main(), 20))
    except OperatorError as error:
        return f"{type(error).__name__}: {error}"


def test_a_home_as_the_commands_leave_it_has_its_guards(registry: Registry, home: Home) -> None:
    assert registry.get("guard").is_enabled
    assert "the guard says no" in asked(home)


@pytest.mark.parametrize("content", [None, "", "\n# all mine\n", "[plugins]\n", "[plugins.guard]\n", "[chat]\n"])
def test_an_emptied_config_is_an_error_and_not_a_host_without_guards(
    registry: Registry, home: Home, content: str | None
) -> None:
    home.config_file.unlink()
    if content is not None:
        home.config_file.write_text(content)
    with pytest.raises(ConfigError, match=r"does not say whether 'guard', 'other' is enabled") as caught:
        registry.load()
    assert "ally-plugins enable guard, or: ally-plugins disable guard" in str(caught.value)
    assert asked(home).startswith("ConfigError: ")
    with pytest.raises(ConfigError):
        registry.review()


def test_a_config_that_was_cut_off_between_two_plugins_is_noticed(registry: Registry, home: Home) -> None:
    text = home.config_file.read_text()
    home.config_file.write_text(text[: text.index("[plugins.other]")])
    with pytest.raises(ConfigError, match="does not say whether 'other' is enabled"):
        registry.load()
    assert registry.load_one("guard")  # a host that runs is told of the others
    registry.disable("other")
    assert [record.state for record in registry.load()] == ["enabled", "disabled"]


def test_a_config_that_was_cut_off_before_the_grants_lets_no_guard_run_unasked(registry: Registry, home: Home) -> None:
    text = home.config_file.read_text()
    home.config_file.write_text(text[: text.rindex("grants = ")])
    assert home.config_file.read_text().endswith('[plugins.other]\nenabled = true\nplacement = "inline"\n')
    with pytest.raises(ConfigError, match="whether 'other' is enabled and with which grants"):
        registry.load()
    assert asked(home).startswith("ConfigError: ")
    assert registry.plan("other").grants.texts() == ("gate:tool_call",)  # what it asked for, and not what is left
    registry.enable(registry.plan("other"))
    assert home.config_file.read_text() == text


@pytest.mark.parametrize("way_out", ["revoke", "enable"])
def test_a_guard_whose_update_asks_for_its_gate_no_more_is_missed_and_nothing_runs(
    registry: Registry, home: Home, site: Site, way_out: str
) -> None:
    async def main() -> tuple[list[str], str]:
        ran: list[str] = []

        async def run(call: ToolCall) -> ToolResult:
            ran.append(call.tool_name)
            return ToolResult(success=True)

        async with Host("test", home=home.path) as host:
            result = await host.session("s").run_tool_call(ToolCall("bash", {"command": "rm"}, "c1"), run)
            return ran, result.error or ""

    registry.disable("other")
    site.write("guard/ally-plugin.toml", 'description = "it guards no more"\n')
    site.write("guard/__init__.py", "class Plugin:\n    def __init__(self, ally):\n        pass\n")
    ran, why = asyncio.run(main())
    assert ran == []
    assert "'gate:tool_call', which it does not ask for: ally-plugins revoke guard gate:tool_call" in why
    if way_out == "revoke":
        registry.revoke("guard", "gate:tool_call")
    else:
        registry.enable(registry.plan("guard"))
    assert asyncio.run(main()) == (["bash"], "")


def test_the_commands_that_the_error_names_lead_out_of_it(registry: Registry, home: Home, site: Site) -> None:
    home.config_file.unlink()
    registry.enable(registry.plan("guard"))
    for file in (site.path / "other-1.0.dist-info").iterdir():
        file.unlink()
    (site.path / "other-1.0.dist-info").rmdir()
    registry.disable("other")  # gone, and agreed to all the same
    assert [record.name for record in registry.load() if record.is_enabled] == ["guard"]
    assert "the guard says no" in asked(home)


def test_an_emptied_home_begins_anew_without_both_files(registry: Registry, home: Home) -> None:
    home.config_file.unlink()
    home.consent_file.unlink()
    assert [record.state for record in registry.load()] == ["waiting for consent"] * 2


def test_an_emptied_config_beside_a_consent_that_cannot_be_read_is_an_error(registry: Registry, home: Home) -> None:
    home.config_file.write_text("")
    home.consent_file.write_text(home.consent_file.read_text()[:60])
    with pytest.raises(ConfigError, match="what was agreed to cannot be read"):
        registry.load()


@pytest.mark.parametrize("leave", ["disable", "forget", "revoke"])
def test_what_an_operator_takes_back_is_no_emptied_config(registry: Registry, leave: str) -> None:
    if leave == "revoke":
        registry.revoke("guard", "gate")
    else:
        getattr(registry, leave)("guard")
    assert {record.name for record in registry.load()} == {"guard", "other"}


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_strange_config_stops_the_start_with_the_way_out(
    registry: Registry, home: Home, make: Callable[[Path], None]
) -> None:
    make(home.config_file)
    said = asked(home)
    assert said.startswith(f"ConfigError: {home.config_file} cannot be read: ")
    assert re.search(r"mv |chmod [og]-w |chown ", said)
    with pytest.raises(ConfigError):
        registry.enable(registry.plan("guard"))


@pytest.mark.parametrize("make", [*KINDS, link], ids=lambda make: make.__name__)
def test_a_strange_consent_stops_the_start_with_the_way_out(
    registry: Registry, home: Home, make: Callable[[Path], None]
) -> None:
    make(home.consent_file)
    said = asked(home)
    assert said.startswith(f"ConsentError: {home.consent_file} cannot be read: ")
    assert re.search(r"mv |chmod [og]-w |chown ", said)
    with pytest.raises(ConsentError):
        registry.enable(registry.plan("guard"))


@pytest.mark.parametrize("make", [*KINDS, link], ids=lambda make: make.__name__)
def test_a_strange_quarantine_keeps_its_plugins_stopped_and_its_gates_deny(
    registry: Registry, home: Home, make: Callable[[Path], None]
) -> None:
    registry.quarantine("guard", "five crashes")
    make(home.quarantine_file)
    assert [record.state for record in registry.load()] == ["quarantined", "quarantined"]
    said = asked(home)
    assert said.startswith("Deny(")
    assert "quarantine.json cannot be read" in said
    if make in {folder, foreign}:  # the one cannot be replaced; the other needs no test of who writes it
        return
    registry.release("other")
    assert [record.state for record in registry.load()] == ["quarantined", "enabled"]
    assert stat.S_ISREG(home.quarantine_file.lstat().st_mode)


@pytest.mark.parametrize("make", [*KINDS, link], ids=lambda make: make.__name__)
def test_strange_secrets_are_not_read(home: Home, registry: Registry, make: Callable[[Path], None],
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    registry.secrets.set("guard", "token", "hunter2")
    make(home.secrets_file)
    with pytest.raises(ConfigError, match=re.escape(str(home.secrets_file))) as caught:
        registry.secrets.get("guard", "token")
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_no_file_is_written_that_would_be_too_large_to_be_read(registry: Registry, home: Home) -> None:
    registry.quarantine("guard", "it crashed")
    registry.release("guard")
    before = {file: file.read_bytes() for file in home.path.iterdir() if file.is_file()}
    many = {f"p{n}": Agreement(requests=("tools",), distribution="x" * 4000) for n in range(2000)}
    with pytest.raises(
        ConfigError, match=r"consent\.toml cannot be written: it would have \d{7,} bytes, expected 4194304"
    ):
        write_consent(home, many, None)
    large = "x" * 1024 * 1024
    with pytest.raises(ConfigError, match=r"cannot be kept in .*: it would have 1048[56]\d\d bytes, expected 1048576"):
        registry.secrets.set("guard", "token", large)
    with pytest.raises(ConfigError, match=r"quarantine\.json cannot be written: it would have"):
        registry.quarantine("guard", large)
    with pytest.raises(ConfigError, match=r"config\.toml cannot be written: it would have"):
        edit_config(home, "guard", lambda _: {"settings": {"text": large}})
    assert {file: file.read_bytes() for file in home.path.iterdir() if file.is_file()} == before
    assert "the guard says no" in asked(home)


def test_emptied_secrets_are_an_error(home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    home.secrets_file.write_text("")
    with pytest.raises(ConfigError, match="restore or remove it"):
        registry.secrets.get("guard", "token")


@pytest.mark.parametrize("make", [*KINDS, link], ids=lambda make: make.__name__)
def test_a_remark_that_cannot_be_read_is_none_and_is_written_anew(home: Home, make: Callable[[Path], None]) -> None:
    home.prepare()
    make(home.failed_starts_file)
    assert failed_starts(home, {"p": "1.0"}) == {}
    remember_starts(home, [("p", "1.0", "no such module")])
    if make not in {folder, open_to_all, open_to_a_group}:
        assert failed_starts(home, {"p": "1.0"}) == {"p": "no such module"}


@pytest.mark.parametrize("make", [pipe, folder, link, plug], ids=lambda make: make.__name__)
def test_a_strange_lock_is_an_error_in_words(home: Home, make: Callable[[Path], None]) -> None:
    home.prepare()
    make(home.run_dir / "edit.lock")
    with pytest.raises(ConfigError, match=r"edit\.lock cannot be locked: it is a"), home.locked():
        pass


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_home_that_everybody_can_write_is_not_used(registry: Registry, home: Home, mode: int) -> None:
    home.path.chmod(mode)
    said = asked(home)
    assert said.startswith("ConfigError: the home ")
    assert f"can be written by everybody; mend it: chmod o-w {home.path}" in said
    with pytest.raises(ConfigError, match="chmod o-w"):
        registry.load()
    with pytest.raises(ConfigError, match="chmod o-w"):
        registry.disable("guard")
    home.path.chmod(0o755)
    assert "the guard says no" in asked(home)


@as_root
def test_a_home_of_another_user_or_group_is_not_used(registry: Registry, home: Home) -> None:
    os.chown(home.path, NOBODY, -1)
    assert f"belongs to the user {NOBODY}, expected the user 0 or root" in asked(home)
    os.chown(home.path, 0, NOBODY)
    home.path.chmod(0o770)
    assert f"can be written by the group {NOBODY}; mend it: chmod g-w" in asked(home)
    os.chown(home.path, 0, os.getegid())
    assert registry.load()  # one's own group is how some systems leave files


def test_the_way_out_is_a_command_that_leads_out(registry: Registry, home: Home) -> None:
    link(home.consent_file)
    said = asked(home)
    command = re.search(r"move it away: (mv \S+ \S+);", said)
    assert command is not None
    subprocess.run(shlex.split(command[1]), check=True)
    assert said != asked(home)
    assert {record.state for record in registry.load()} == {"waiting for consent"}
    registry.enable(registry.plan("guard"))
    assert registry.get("guard").is_enabled


def test_an_operators_config_may_be_a_link_to_a_file_of_his_and_a_home_too(
    registry: Registry, home: Home, tmp_path: Path
) -> None:
    link(home.config_file)
    (tmp_path / "short").symlink_to(home.path)
    linked = Registry(Home("test", tmp_path / "short"))
    assert linked.get("guard").is_enabled
    linked.disable("guard")
    assert home.config_file.is_symlink()
    assert registry.get("guard").state == "disabled"
    home.config_file.resolve().chmod(0o666)
    with pytest.raises(ConfigError, match="everybody"):
        registry.load()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("file", "it is a regular file and not a folder; move it away: mv "), ("link", "it is a link to nothing, ")],
)
def test_a_home_that_is_no_folder_is_told_for_what_it_is(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "home"
    path.write_text("x") if kind == "file" else path.symlink_to("nowhere")
    said = asked(Home("test", path))
    assert said.startswith(f"ConfigError: the home {str(path)!r} cannot be used: {words}")


def test_a_run_folder_that_is_a_link_is_not_used(registry: Registry, home: Home, tmp_path: Path) -> None:
    assert registry.get("guard").is_enabled
    home.run_dir.rename(tmp_path / "elsewhere")
    home.run_dir.symlink_to(tmp_path / "elsewhere")
    assert "is a link, expected a folder" in asked(home)


def test_files_of_the_home_that_an_editor_has_marked_mean_what_they_say(registry: Registry, home: Home) -> None:
    registry.quarantine("guard", "it crashed")
    registry.secrets.set("guard", "key", "s")
    for file in (home.consent_file, home.quarantine_file, home.secrets_file):
        if file.exists():
            file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    record = Registry(home).get("guard")
    assert record.state == "quarantined"
    assert record.agreement is not None
    assert Registry(home).secrets.get("guard", "key") == "s"
    Registry(home).release("guard")
    assert Registry(home).get("guard").is_enabled


def test_what_was_opened_is_what_was_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    descriptor = open_file(file, os.O_RDONLY)
    assert os.read(descriptor, 9) == b"x"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    assert read_file(file, 1) == b"x"
    with pytest.raises(OSError, match="more than 0 bytes"):
        read_file(file, 0)
    assert read_file(tmp_path / "none", 1) is None
    check_folder(tmp_path / "none")


def test_without_owners_only_the_kind_counts(tmp_path: Path) -> None:
    open_to_all(tmp_path / "file")
    found = (tmp_path / "file").stat()
    assert "everybody" in fault_of("file", found, (found.st_uid, found.st_gid))
    assert fault_of("file", found, None) == ""
    assert "not a folder" in fault_of("file", found, None, is_folder=True)

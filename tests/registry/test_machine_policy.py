"""The policy of a machine's administrator: what it takes from users, and that only root's file is believed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.home import machine_policy
from ally_plugins.catalog.home.machine_policy import MachinePolicy, parse_policy, read_policy
from ally_plugins.catalog.registry import PluginRecord, Registry
from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.errors import ConfigError, ConsentError, HostError
from ally_plugins.fleet.batches import UNREADABLE
from ally_plugins.fleet.holdings import holdings_of
from ally_plugins.host.host import Host
from tests.kit.commands import run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the file's owner has to be told")

MANIFEST = """
description = "guards"
[permissions]
add_message = { roles = ["user"], reason = "to speak" }
gate = { on = ["tool_call"], reason = "to stop it" }
"""
CODE = """
from ally_plugins import Deny, hookimpl

class Plugin:
    def __init__(self, ally):
        pass

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return Deny("it is guarded") if "rm" in str(call.arguments) else None
"""


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the machine's policy is to be written; who runs this counts as root."""
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(machine_policy, "POLICY_FILE", folder / "policy.toml")
    monkeypatch.setattr(machine_policy, "_ROOT", (os.geteuid(), os.getegid()))
    return folder / "policy.toml"


@pytest.fixture
def registry(home: Home, site: Site, policy: Path) -> Iterator[Registry]:  # noqa: ARG001 - before anything is read
    site.plugin("guard", MANIFEST, code=CODE)
    yield Registry(home)
    sys.modules.pop("guard", None)


def enable(registry: Registry, only: list[str] | None = None) -> PluginRecord:
    registry.enable(registry.plan("guard", only, placement="inline"))
    return registry.get("guard")


def verdict(home: Home, command: str = "ls") -> str:
    """Return what a host of this home decides of a call; or why it does not start."""

    async def ask() -> str:
        async with Host("test", home=home) as host:
            return str((await host.session("s").gate_tool_call(ToolCall("bash", {"command": command}, "c1"))).verdict)

    try:
        return asyncio.run(ask())
    except (ConfigError, HostError) as error:
        return f"not started: {error}"


# --- whose file it is ---


def test_without_a_file_or_its_folder_nothing_is_settled(policy: Path) -> None:
    assert read_policy() == MachinePolicy()
    policy.parent.rmdir()
    assert read_policy() == MachinePolicy()


@pytest.mark.parametrize("what", ["file", "folder", "group", "pipe", "folder in its place", "a link", "unreadable"])
def test_a_policy_that_others_could_write_or_that_is_no_file_starts_no_host(
    what: str, policy: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable(registry)
    policy.write_text("")
    match what:
        case "file":
            policy.chmod(0o646)
        case "folder":
            policy.parent.chmod(0o777)
        case "group":
            monkeypatch.setattr(machine_policy, "_ROOT", (os.geteuid(), os.getegid() + 1))
            policy.chmod(0o664)
        case "pipe":
            policy.unlink()
            os.mkfifo(policy)
        case "folder in its place":
            policy.unlink()
            policy.mkdir()
        case "a link":
            policy.rename(policy.with_name("other"))
            policy.symlink_to(policy.with_name("other"))
        case _:
            if os.geteuid() == 0:
                pytest.skip("root reads everything")
            policy.chmod(0)
    with pytest.raises(ConfigError, match="cannot be used"):
        read_policy()
    assert verdict(registry.home).startswith("not started: the policy ")
    assert "cannot be used" in run_command("list", "--home", str(registry.home.path), code=2).stderr


def test_a_policy_of_somebody_else_than_root_is_refused(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.write_text("")
    monkeypatch.setattr(machine_policy, "_ROOT", (os.geteuid() + 1, 0))
    if os.geteuid() == 0:
        os.chown(policy, 4711, 4711)
    with pytest.raises(ConfigError, match="belongs to the user"):
        read_policy()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is not TOML"),
        ("mandatroy = []", "unknown key, did you mean 'mandatory'"),
        ("mandatory = 'guard'", "mandatory: found"),
        ("mandatory = ['Not A Name']", "expected the name of a plugin"),
        ("[digests]\nguard = []", "expected at least one"),
        ("[digests]\nguard = ['sha256:1']", "expected 64 digits"),
        ("[ceilings]\nguard = ['gate:tol_call']", "gate:tool_call"),
        ("allow = 'no'", "expected true or false"),
    ],
)
def test_a_mistake_in_it_is_an_error_that_names_it(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_policy(text.encode(), "policy.toml")


# --- what may run ---


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('distributions = ["other-*"]', "does not allow the distribution 'guard'"),
        ("distributions = []", "does not allow the distribution 'guard'"),
        (f'digests = {{ guard = ["{"0" * 64}"] }}', "have the digest"),
    ],
)
def test_what_it_does_not_allow_is_neither_enabled_nor_run_and_its_gates_deny(
    line: str, words: str, policy: Path, registry: Registry
) -> None:
    enable(registry)
    policy.write_text(line)
    record = registry.get("guard")
    assert (record.state, record.is_missed) == ("not configured", True)
    assert words in record.reason
    assert words in verdict(registry.home)
    with pytest.raises(ConsentError, match=words):
        registry.plan("guard")
    registry.disable("guard")
    assert "Allow" in verdict(registry.home)


def test_what_it_allows_runs(policy: Path, registry: Registry, site: Site) -> None:
    enable(registry)
    policy.write_text('distributions = ["GUARD"]')
    assert registry.get("guard").is_enabled
    digest = registry.get("guard").agreement.files  # type: ignore[union-attr]
    policy.write_text(f'distributions = []\ndigests = {{ guard = ["{"0" * 64}", "{digest}"] }}')
    assert registry.get("guard").is_enabled
    site.write("guard/__init__.py", CODE + "\n# changed\n")
    assert "have the digest" in registry.get("guard").reason


def test_a_folder_that_calls_itself_by_an_allowed_name_is_none_of_the_distribution(
    policy: Path, registry: Registry
) -> None:
    folder = registry.home.plugins_dir / "mine"
    folder.mkdir(parents=True)
    (folder / "ally-plugin.toml").write_text(MANIFEST + '[daemon]\ncommand = ["./run.sh"]\n')
    policy.write_text('distributions = ["*"]')
    with pytest.raises(ConsentError, match="comes from no distribution"):
        registry.plan("mine")


# --- what it may do ---


def test_what_is_above_the_ceiling_is_not_granted_and_has_no_effect(policy: Path, registry: Registry) -> None:
    assert "add_message:user" in enable(registry).granted.texts()
    policy.write_text('[ceilings]\n"*" = ["gate:tool_call"]')
    record = registry.get("guard")
    assert record.granted.texts() == ("gate:tool_call",)
    assert "so that it has no effect" in record.warnings[0]
    registry.revoke("guard", "add_message:user")
    with pytest.raises(ConsentError, match="does not allow it"):
        registry.grant("guard", "add_message:user")
    with pytest.raises(ConsentError, match="does not allow it"):
        registry.plan("guard", ["add_message:user"])
    assert registry.plan("guard").refused.keys() == {"add_message:user"}
    policy.write_text('[ceilings]\n"*" = []\nguard = ["gate:tool_call", "add_message:user"]')
    registry.grant("guard", "add_message:user")


def test_a_guard_above_the_ceiling_is_not_dropped_in_silence(policy: Path, registry: Registry) -> None:
    enable(registry)
    policy.write_text("[ceilings]\nguard = ['add_message:user']")
    assert registry.get("guard").state == "not configured"
    assert "ally-plugins revoke guard gate:tool_call" in verdict(registry.home)
    registry.revoke("guard", "gate:tool_call")
    assert registry.get("guard").is_enabled


# --- what has to be there ---


def test_no_host_starts_without_a_mandatory_plugin_and_the_error_names_the_way_out(
    policy: Path, registry: Registry, site: Site
) -> None:
    policy.write_text('mandatory = ["guard"]')
    assert f"not started: {policy} makes 'guard' mandatory, and it is waiting for consent" in verdict(registry.home)
    assert "ally-plugins enable guard" in verdict(registry.home)
    enable(registry)
    assert "it is guarded" in verdict(registry.home, "rm x")
    for each in site.path.glob("guard-*.dist-info/entry_points.txt"):
        each.unlink()
    assert "not started: " in (said := verdict(registry.home))
    assert "ally-plugins install guard" in said
    policy.write_text('mandatory = ["other"]')
    assert f"{policy} makes 'other' mandatory, which is not installed" in verdict(registry.home)


def test_a_mandatory_guard_guards_whatever_the_user_settles(policy: Path, registry: Registry) -> None:
    enable(registry)
    policy.write_text('mandatory = ["guard"]')
    changes: tuple[Callable[[], object], ...] = (
        lambda: registry.disable("guard"),
        lambda: registry.revoke("guard", "gate"),
        lambda: registry.shadow("guard", hooks=True),
    )
    for change in changes:
        with pytest.raises(ConsentError, match="makes 'guard' mandatory"):
            change()
    registry.revoke("guard", "add_message:user")  # which guards nothing
    agreed = registry.home.config_file.read_text()
    for edit in (
        agreed.replace("enabled = true", "enabled = false"),
        agreed.replace('"gate:tool_call"', ""),
        agreed + 'shadow = true\non_error = { gate = "allow" }\n',
    ):
        assert edit != agreed
        registry.home.config_file.write_text(edit)
        assert "it is guarded" in verdict(registry.home, "rm x")
        assert registry.get("guard").config.gate_on_error == "deny"


def test_doctor_says_what_the_policy_misses(policy: Path, registry: Registry) -> None:
    found = ask_doctor(registry.home, 0)
    assert "policy" not in found
    policy.write_text('mandatory = ["guard"]')
    assert found.keys() < (found := ask_doctor(registry.home, 1)).keys()
    assert found["policy"]["level"] == "problem"
    assert "ally-plugins enable guard" in found["policy"]["remedy"]
    enable(registry)
    assert "mandatory: guard" in ask_doctor(registry.home, 0)["policy"]["text"]


def ask_doctor(home: Home, code: int) -> dict[str, dict[str, str]]:
    shown = json.loads(run_command("doctor", "--json", "--home", str(home.path), code=code).stdout)
    return {each["topic"]: each for each in shown["findings"]}


@pytest.mark.slow
def test_a_replay_needs_no_mandatory_plugin(policy: Path, home: Home) -> None:
    policy.write_text('mandatory = ["guard"]')
    run_command("demo", "--home", str(home.path))


def test_what_a_machine_holds_of_its_policy_is_the_digest_of_the_file(home: Home, policy: Path) -> None:
    assert holdings_of(home).policy == ""
    policy.write_text("pause = false\n")
    assert holdings_of(home).policy == sha256(b"pause = false\n").hexdigest()
    policy.write_text("pause = 3\n")
    assert holdings_of(home).policy == UNREADABLE

"""Edits of `config.toml` by hand: what tightens holds at once, what loosens waits until a person agrees to it."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import tomlkit

from ally_plugins import Host, ToolCall
from ally_plugins.catalog.decide.loosening import keep_stricter
from ally_plugins.catalog.home.config import PluginConfig, config_table, parse_config, plugin_config
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.documents import Document
from tests.kit.commands import run_command
from tests.kit.sites import Site
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """
description = "guards the shell"
requires_host = ">=1,<2"
[permissions]
gate = { on = ["tool_call"], tools = ["bash"], reason = "to guard" }
add_message = { roles = ["user"], reason = "to speak" }
tools = { reason = "to tell" }
[settings.word]
type = "string"
default = "rm"
description = "what is denied"
[settings.other]
type = "string"
default = ""
description = "whatever"
"""

CODE = """
from ally_plugins import Deny, hookimpl

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return Deny("guarded") if self.ally.settings["word"] in call.arguments["command"] else None
"""

GUARD = "loosened-guard"
BASE = {"enabled": True, "grants": ["gate:tool_call", "add_message:user"]}


def config_of(**keys: Any) -> PluginConfig:
    return parse_config(tomlkit.dumps({"plugins": {GUARD: {**BASE, **keys}}}), "config.toml").plugins[GUARD]


PAIRS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # The key, what is stricter, what is looser.
    ("enabled", {}, {"enabled": False}),
    ("placement", {"placement": "sandbox"}, {"placement": "process"}),
    ("placement", {"placement": "sandbox"}, {"placement": "inline"}),
    ("placement", {"placement": "sandbox"}, {}),
    ("placement", {"placement": "process"}, {"placement": "inline"}),
    ("placement", {"placement": "process"}, {}),
    ("grants", {}, {"grants": ["add_message:user"]}),
    ("grants", {}, {"grants": ["gate:tool_call:bash", "add_message:user"]}),
    ("grants", {}, {"grants": [*BASE["grants"], "tools"]}),  # type: ignore[misc]
    ("grants", {}, {"grants": [*BASE["grants"], "gate:waive"]}),  # type: ignore[misc]
    ("grants", {}, {"grants": []}),
    ("shadow", {}, {"shadow": True}),
    ("shadow", {}, {"shadow": ["tool_call"]}),
    ("shadow", {"shadow": ["message"]}, {"shadow": ["message", "tool_call"]}),
    ("shadow", {"shadow": ["message"]}, {"shadow": True}),
    ("mandatory", {"mandatory": True}, {"mandatory": False}),
    ("mandatory", {"mandatory": True}, {}),
    ("ungated_tools", {}, {"ungated_tools": True}),
    ("ungated_tools", {"ungated_tools": ["a"]}, {"ungated_tools": ["a", "b"]}),
    ("consent", {"consent": "files"}, {"consent": "requests"}),
    ("consent", {"consent": "files"}, {}),
    ("on_error.gate", {}, {"on_error": {"gate": "allow"}}),
    ("on_error.transform", {"on_error": {"transform": "block"}}, {"on_error": {"transform": "drop"}}),
    ("on_error.transform", {"on_error": {"transform": "block"}}, {}),
    ("sandbox", {"sandbox": "require"}, {"sandbox": "best"}),
    ("process", {"process": {"memory_mb": 512}}, {"process": {"memory_mb": 1024}}),
    ("process", {"process": {"memory_mb": 512}}, {"process": {"memory_mb": "none"}}),
    ("process", {"process": {"memory_mb": 512}}, {}),
    ("limits", {}, {"limits": {"messages_per_minute": 1000}}),
    ("limits", {"limits": {"tools": 0}}, {}),
    ("deadlines", {}, {"deadlines": {"gate": 0.01}}),
    ("deadlines", {}, {"deadlines": {"ally_gate_tool_call": 0.01}}),
    ("deadlines", {"deadlines": {"gate": 60}}, {}),
    ("settings", {}, {"settings": {"word": "nothing"}}),
    ("settings", {"settings": {"word": "rm"}}, {}),
]


@pytest.mark.parametrize(
    ("key", "strict", "loose"), PAIRS, ids=[f"{key} {strict} {loose}" for key, strict, loose in PAIRS]
)
def test_what_a_key_loosens_waits_and_what_it_tightens_holds(
    key: str, strict: dict[str, Any], loose: dict[str, Any]
) -> None:
    agreed, written = config_of(**strict), config_of(**loose)
    held, keys = keep_stricter(agreed, written)
    assert keys == (key,)
    assert keep_stricter(agreed, held) == (held, ())
    if key not in {"grants", "deadlines"}:
        assert held == agreed
    elif key == "deadlines":
        assert min(held.deadlines.get("gate", 15), held.deadlines.get("ally_gate_tool_call", 15)) >= 15
    else:
        assert {grant.text for grant in held.grants.grants} <= {
            "gate:tool_call",
            "gate:tool_call:bash",
            "add_message:user",
        }
        assert "gate:tool_call" in held.grants.texts()
    # The other way round nothing waits, but for settings, of which nobody knows which are stricter.
    if key not in {"settings", "enabled", "process"} and "tools" not in str(loose) and loose.get("grants") is None:
        assert keep_stricter(written, agreed) == (agreed, ())


def test_another_python_and_another_source_wait() -> None:
    agreed = config_of(placement="process", interpreter="/usr/bin/python3")
    held, keys = keep_stricter(agreed, config_of(placement="process", interpreter="/opt/python3"))
    assert (held, keys) == (agreed, ("placement",))
    assert keep_stricter(agreed, config_of(placement="sandbox"))[0].interpreter == "/usr/bin/python3"
    assert keep_stricter(config_of(), config_of(source="folder"))[1] == ("source",)


def test_what_was_agreed_to_is_the_same_when_it_is_read_again() -> None:
    for _, strict, loose in PAIRS:
        for config in (config_of(**strict), config_of(**loose)):
            document = Document()
            table = tomllib.loads(tomlkit.dumps(config_table(config)))
            assert plugin_config(table, "x", document) == config
            assert document.problems == []


# --- in a home ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    (tmp_path / "site").mkdir()
    Site(tmp_path / "site").plugin(GUARD, MANIFEST, code=CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("ALLY_HOME", str(tmp_path / "home"))
    found = Home("ally-plugins", tmp_path / "home")
    run_command("enable", GUARD, "--place", "inline", "--yes")
    return found


def edit(home: Home, **keys: Any) -> None:
    """Edit the file by hand."""
    document = tomllib.loads(home.config_file.read_text())
    document["plugins"][GUARD] |= keys
    home.config_file.write_text(tomlkit.dumps(document))


async def verdict(host: Host) -> tuple[bool, str]:
    ruling = await host.session().gate_tool_call(ToolCall("bash", {"command": "rm x"}, "c1"))
    return ruling.is_denied, ruling.reason


def denied(home: Home) -> bool:
    async def main() -> bool:
        async with Host(home=home) as host:
            return (await verdict(host))[0]

    return go(main())


@pytest.mark.parametrize(
    "keys",
    [
        {"enabled": False},
        {"shadow": True},
        {"grants": ["add_message:user"]},
        {"settings": {"word": "nothing"}},
        {"deadlines": {"gate": 0.000001}, "on_error": {"gate": "allow"}},
    ],
    ids=str,
)
def test_a_new_host_and_one_that_runs_keep_what_was_agreed_to_until_review(keys: dict[str, Any], home: Home) -> None:
    async def main() -> None:
        async with Host(home=home) as host:
            assert (await verdict(host))[0]
            edit(home, **keys)
            assert host._live is not None
            await host._live.apply(GUARD)
            assert (await verdict(host))[0]
            if "settings" in keys:
                await host._live.restart(GUARD)
                assert (await verdict(host))[0]

    go(main())
    assert denied(home)
    (record,) = [each for each in Registry(home).review() if each.name == GUARD]
    assert record.loosened
    assert "config.toml loosens" in run_command("list").stdout
    assert "consent needs a person" in run_command("review", "--agree", code=1).stderr
    assert denied(home)
    run_command("review", "--agree", "--yes")
    assert Registry(home).get(GUARD).loosened == ()
    if "deadlines" not in keys:
        assert not denied(home)
    assert "agreed to what config.toml loosens" in run_command("audit", "--kind", "loosen").stdout
    assert "loosens nothing" in run_command("review", "--agree", "--yes").stdout


def test_what_was_tightened_by_hand_is_kept_once_a_host_has_run(home: Home) -> None:
    edit(home, mandatory=True, on_error={"gate": "deny", "transform": "block"}, consent="files")
    assert Registry(home).get(GUARD).loosened == ()
    assert denied(home)
    edit(home, mandatory=False, on_error={}, consent="requests")
    record = Registry(home).get(GUARD)
    assert record.loosened == ("mandatory", "consent", "on_error.transform")
    assert (record.config.mandatory, record.config.transform_on_error, record.config.consent) == (
        True,
        "block",
        "files",
    )


def test_a_command_agrees_to_what_it_changes_and_to_nothing_else(home: Home) -> None:
    edit(home, shadow=True)
    run_command("config", GUARD, "other=1")
    run_command("revoke", GUARD, "add_message:user")
    record = Registry(home).get(GUARD)
    assert record.loosened == ("shadow",)
    assert record.config.settings == {"other": "1"}
    run_command("shadow", GUARD)
    assert Registry(home).get(GUARD).loosened == ()
    assert not denied(home)
    run_command("shadow", GUARD, "--off")
    assert denied(home)


def test_a_plugin_that_a_person_disabled_denies_when_the_file_enables_it(home: Home) -> None:
    run_command("disable", GUARD)
    assert not denied(home)
    edit(home, enabled=True)
    record = Registry(home).get(GUARD)
    assert record.state == "waiting for consent"
    assert "a person has disabled it" in record.reason
    assert denied(home)
    run_command("enable", GUARD, "--yes")
    assert Registry(home).get(GUARD).is_enabled


def test_an_agreement_from_before_is_held_to_what_the_file_says_when_a_host_first_runs(home: Home) -> None:
    document = tomllib.loads(home.consent_file.read_text())
    del document["plugins"][GUARD]["settled"]
    home.consent_file.write_text(tomlkit.dumps(document))
    assert denied(home)
    edit(home, shadow=True)
    assert Registry(home).get(GUARD).loosened == ("shadow",)


@pytest.mark.parametrize("damage", [{"shadow": "no"}, {"unknown": 1}, "text", []], ids=str)
def test_an_agreement_that_says_nonsense_of_what_was_settled_is_none(damage: Any, home: Home) -> None:
    document = tomllib.loads(home.consent_file.read_text())
    document["plugins"][GUARD]["settled"] = damage if not isinstance(damage, dict) else {**BASE, **damage}
    home.consent_file.write_text(tomlkit.dumps(document))
    record = Registry(home).get(GUARD)
    assert record.state == "waiting for consent" or damage == {"unknown": 1}
    assert denied(home)

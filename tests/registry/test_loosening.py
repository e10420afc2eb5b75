"""Edits of `config.toml` by hand: what tightens holds at once, what loosens waits until a person agrees to it."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import tomlkit
from attrs import evolve

from ally_plugins import Host, ToolCall
from ally_plugins.catalog.decide.loosening import keep_host_stricter, keep_stricter
from ally_plugins.catalog.home.config import (
    Config,
    PluginConfig,
    config_table,
    host_config,
    host_table,
    parse_config,
    plugin_config,
)
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.plugin_facts import read_settled
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


def host_of(**keys: Any) -> Config:
    return parse_config(tomlkit.dumps(keys), "config.toml")


HOST_PAIRS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("sources", {}, {"sources": ["packages", "folders", "code_ally", "hermes"]}),
    ("sources", {"sources": ["packages"]}, {"sources": ["hermes", "packages"]}),
    ("journal.content", {}, {"journal": {"content": "metadata"}}),
    ("journal.content", {"journal": {"content": "metadata"}}, {}),
    ("journal.keep_days", {}, {"journal": {"keep_days": 1}}),
    ("journal.keep_days", {"journal": {"keep_days": 0}}, {}),
    ("journal.max_megabytes", {}, {"journal": {"max_megabytes": 1}}),
    ("journal.max_megabytes", {"journal": {"max_megabytes": 0}}, {"journal": {"max_megabytes": 99999}}),
    ("chat.allow", {}, {"chat": {"allow": ["bash"]}}),
    ("chat.allow", {"chat": {"allow": ["read"]}}, {"chat": {"allow": ["read", "bash"]}}),
    ("chat.base_url", {}, {"chat": {"base_url": "https://elsewhere.example/v1"}}),
    ("chat.base_url", {"chat": {"base_url": "http://localhost:1/v1"}}, {}),
    ("chat.api_key_env", {"chat": {"api_key_env": "A"}}, {"chat": {"api_key_env": "B"}}),
]


@pytest.mark.parametrize(
    ("key", "strict", "loose"), HOST_PAIRS, ids=[f"{key} {strict} {loose}" for key, strict, loose in HOST_PAIRS]
)
def test_of_what_is_about_no_plugin_the_stricter_holds_too(
    key: str, strict: dict[str, Any], loose: dict[str, Any]
) -> None:
    agreed, written = host_of(**strict), host_of(**loose)
    held, keys = keep_host_stricter(agreed, written)
    assert keys == (key,)
    assert host_table(held) == host_table(agreed)
    assert keep_host_stricter(agreed, held) == (held, ())
    # The other way round nothing waits, but where no way is the stricter one.
    if key not in {"journal.content", "chat.base_url", "chat.api_key_env"}:
        assert keep_host_stricter(written, agreed) == (agreed, ())
    for config in (agreed, written):
        document = Document()
        assert host_config(tomllib.loads(tomlkit.dumps(host_table(config))), "host", document) == config
        assert document.problems == []


def test_a_models_name_and_a_longer_memory_wait_for_nobody() -> None:
    changed = host_of(
        chat={"model": "openai:gpt-5.2", "context_window": 9}, journal={"keep_days": 90}, sources=["folders"]
    )
    assert keep_host_stricter(Config(), changed) == (changed, ())
    # Plugins that our own sources find wait for a consent of their own.
    assert keep_host_stricter(changed, evolve(changed, sources=("code_ally", "packages")))[1] == ()


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


@pytest.mark.slow
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


def edit_host(home: Home, **keys: Any) -> None:
    document = tomllib.loads(home.config_file.read_text()) | keys
    home.config_file.write_text(tomlkit.dumps(document))


def keeping(home: Home) -> tuple[str, int]:
    async def main() -> tuple[str, int]:
        async with Host(home=home) as host:
            found = host.journal._writer._keeping
            assert found is not None
            return found.content, found.days

    return go(main())


@pytest.mark.slow
def test_a_journal_that_would_keep_less_and_a_new_source_wait_for_review(home: Home) -> None:
    assert keeping(home) == ("full", 30)
    edit_host(home, journal={"content": "metadata", "keep_days": 1}, sources=["packages", "hermes"])
    assert keeping(home) == ("full", 30)
    registry = Registry(home)
    registry.load()
    [problem] = registry.problems
    assert "loosens sources, journal.content, journal.keep_days; what was agreed to holds until" in problem
    assert "ally-plugins review --agree" in run_command("review").stdout
    assert "config.toml: sources" not in run_command("review", GUARD, "--agree", "--yes").stdout
    # A command that changes something else agrees to nothing of it.
    run_command("shadow", GUARD)
    run_command("shadow", GUARD, "--off")
    assert keeping(home) == ("full", 30)
    shown = run_command("review", "--agree", "--yes").stdout
    assert "config.toml: sources, journal.content, journal.keep_days" in shown
    # Now it holds, and a source that is not installed is an error as ever.
    edit_host(home, sources=["packages"])
    assert read_settled(home).config.journal.keep_days == 1
    assert "journal.keep_days" in run_command("audit", "--kind", "loosen").stdout
    edit_host(home, journal={"content": "metadata", "keep_days": 2})
    assert keeping(home) == ("metadata", 2)
    edit_host(home, journal={"content": "metadata", "keep_days": 1})
    assert keeping(home) == ("metadata", 2), "what was tightened by hand is kept once a host has run"


def test_the_chat_sends_its_words_where_the_person_agreed_to_until_review(home: Home) -> None:
    assert denied(home)
    edit_host(home, chat={"base_url": "https://elsewhere.example/v1", "allow": ["run_command"], "model": "offline"})
    config = read_settled(home).config
    assert (config.chat.base_url, config.chat.allow, config.chat.model) == ("", (), "offline")
    assert read_settled(home).loosened == {"config.toml": ("chat.base_url", "chat.allow")}


@pytest.mark.parametrize("damage", ["text", {"journal": {"keep_days": -1}}], ids=str)
def test_where_it_cannot_be_read_what_was_settled_for_the_host_the_defaults_were(damage: Any, home: Home) -> None:
    edit_host(home, journal={"keep_days": 1}, sources=["packages", "folders", "hermes"])
    assert denied(home)
    document = tomllib.loads(home.consent_file.read_text())
    document["host"] = damage
    home.consent_file.write_text(tomlkit.dumps(document))
    settled = read_settled(home)
    assert (settled.config.sources, settled.config.journal.keep_days) == (("packages", "folders"), 30)
    assert any("is damaged at host" in each for each in settled.damage)


@pytest.mark.slow
def test_what_a_home_from_before_says_of_the_host_is_kept_when_one_first_runs(home: Home) -> None:
    document = tomllib.loads(home.consent_file.read_text())
    del document["host"]
    home.consent_file.write_text(tomlkit.dumps(document))
    edit_host(home, journal={"keep_days": 5})
    assert keeping(home) == ("full", 5)
    edit_host(home, journal={"keep_days": 4})
    assert keeping(home) == ("full", 5)

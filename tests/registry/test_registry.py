from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.discovery.packages import discover
from ally_plugins.catalog.registry import PluginRecord, Registry
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.errors import ConfigError, ConsentError, OperatorError
from ally_plugins.policy.permissions import GrantSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site

FIRST = """
description = "guards"
[events]
subscribe = ["TOOL_CALL_END"]
[permissions]
add_message = { roles = ["user"], reason = "to speak" }
gate = { on = ["tool_call"], tools = ["bash"], reason = "to stop it" }
"""
MORE = FIRST.replace('roles = ["user"]', 'roles = ["user", "system"]').replace(', tools = ["bash"]', "")
ASKED = ["events:TOOL_CALL_END", "add_message:user", "gate:tool_call:bash"]
SETTINGS = """
[settings.limit]
type = "integer"
default = 3
[settings.mode]
type = "choice"
choices = ["warn", "deny"]
[settings.token]
type = "string"
secret = true
required = true
"""


@pytest.fixture
def registry(home: Home, site: Site) -> Registry:
    site.plugin("guard", FIRST)
    return Registry(home, now=lambda: 1_700_000_000.0)


def enable(registry: Registry, name: str = "guard", only: list[str] | None = None) -> PluginRecord:
    registry.enable(registry.plan(name, only))
    return registry.get(name)


def update(site: Site, manifest: str, code: str = "class Plugin: 1") -> None:
    """Install another version of the plugin, as pip would."""
    for file in (site.path / "guard-1.0.dist-info").iterdir():
        file.unlink()
    (site.path / "guard-1.0.dist-info").rmdir()
    site.plugin("guard", manifest, code=code)


# What is installed and what was agreed to


def test_a_new_plugin_waits_for_consent_and_has_nothing(registry: Registry) -> None:
    record = registry.get("guard")
    assert record.state == "waiting for consent"
    assert "ally-plugins enable guard" in record.reason
    assert not record.granted
    assert [request.grant.text for request in record.pending] == ASKED
    assert registry.review() == (record,)
    assert not record.is_missed


def test_an_enabled_plugin_has_what_was_agreed_to(registry: Registry) -> None:
    record = enable(registry)
    assert (record.state, record.reason, record.pending) == ("enabled", "", ())
    assert record.granted.texts() == ("add_message:user", "events:TOOL_CALL_END", "gate:tool_call:bash")
    assert record.source == "guard 1.0"
    assert record.agreement is not None
    assert (record.agreement.by, record.agreement.at) == ("person", "2023-11-14T22:13:20+00:00")
    assert registry.review() == ()


def test_what_was_agreed_to_is_told_for_the_audit(registry: Registry) -> None:
    change = registry.enable(registry.plan("guard", ["add_message:user"]), by="--yes")
    assert (change.kind, change.plugin) == ("enable", "guard")
    assert change.data["grants"] == ("add_message:user",)
    assert change.data["requests"] == ("add_message:user", "events:TOOL_CALL_END", "gate:tool_call:bash")
    assert (change.data["by"], change.data["distribution"], change.data["version"]) == ("--yes", "guard", "1.0")


def test_only_narrows_the_grants(registry: Registry) -> None:
    plan = registry.plan("guard", ["add_message:user"])
    assert [grant.text for grant in plan.withheld] == ["events:TOOL_CALL_END", "gate:tool_call:bash"]
    record = enable(registry, only=["add_message:user"])
    assert record.granted.texts() == ("add_message:user",)
    assert record.state == "enabled"


@pytest.mark.parametrize("text", ["gate:tool_call", "gate:tool_call:write", "add_message:system", "tools", "events:*"])
def test_nothing_is_granted_that_is_not_asked_for(registry: Registry, text: str) -> None:
    with pytest.raises(ConsentError, match="does not ask for"):
        registry.plan("guard", [text])
    enable(registry)
    with pytest.raises(ConsentError, match="it asks for add_message:user, events:TOOL_CALL_END, gate:tool_call:bash"):
        registry.grant("guard", text)


def test_enabling_a_plugin_that_changed_since_it_was_shown_is_refused(registry: Registry, site: Site) -> None:
    plan = registry.plan("guard")
    update(site, MORE)
    with pytest.raises(ConsentError, match="has changed since it was shown"):
        registry.enable(plan)
    assert registry.get("guard").state == "waiting for consent"


def test_larger_requests_wait_and_the_difference_is_shown(registry: Registry, site: Site) -> None:
    enable(registry)
    update(site, MORE)
    record = registry.get("guard")
    assert record.state == "waiting for consent"
    assert "add_message:system, gate:tool_call;" in record.reason
    assert [request.grant.text for request in record.pending] == ["add_message:system", "gate:tool_call"]
    assert [request.reason for request in record.pending] == ["to speak", "to stop it"]
    assert record.is_missed
    assert record.granted.gates("tool_call", "bash")
    assert registry.review() == (record,)
    record = enable(registry)
    assert record.state == "enabled"
    assert record.granted.covers("add_message:system")


def test_a_new_consent_keeps_what_was_withheld_before(registry: Registry, site: Site) -> None:
    enable(registry, only=["events:TOOL_CALL_END"])
    update(site, FIRST.replace('["user"]', '["user", "system"]'))
    record = enable(registry)
    assert record.granted.texts() == ("add_message:system", "events:TOOL_CALL_END")


def test_smaller_requests_go_on_with_less(registry: Registry, site: Site) -> None:
    update(site, MORE)
    enable(registry)
    update(site, FIRST)
    record = registry.get("guard")
    assert record.state == "enabled"
    assert record.granted.texts() == ("add_message:user", "events:TOOL_CALL_END", "gate:tool_call:bash")
    assert len(record.warnings) == 1
    assert "revoke guard add_message:system" in record.warnings[0]


def test_changed_code_goes_on_and_is_marked(registry: Registry, site: Site) -> None:
    enable(registry)
    update(site, FIRST, code="class Plugin: 2")
    record = registry.get("guard")
    assert record.state == "enabled"
    assert record.has_changed_code
    assert "its code has changed" in record.reason
    assert registry.review() == (record,)
    assert not enable(registry).has_changed_code


def test_with_consent_for_files_an_edit_in_place_waits(registry: Registry, site: Site, home: Home) -> None:
    enable(registry)
    home.config_file.write_text(home.config_file.read_text() + 'consent = "files"\n')
    assert registry.get("guard").state == "enabled"
    site.write("guard/__init__.py", "class Plugin: import os")
    record = registry.get("guard")
    assert record.state == "waiting for consent"
    assert "files" in record.reason
    assert enable(registry).state == "enabled"


def test_the_same_name_from_another_distribution_is_another_plugin(registry: Registry, site: Site) -> None:
    enable(registry)
    for file in (site.path / "guard-1.0.dist-info").iterdir():
        file.unlink()
    (site.path / "guard-1.0.dist-info").rmdir()
    site.add("thief", {"guard": "guard:Plugin"})
    record = registry.get("guard")
    assert record.state == "waiting for consent"
    assert "'guard' and now comes from 'thief'" in record.reason
    assert len(record.pending) == 3


def test_an_uninstalled_plugin_that_is_enabled_is_missed_with_its_grants(registry: Registry, site: Site) -> None:
    enable(registry)
    (site.path / "guard-1.0.dist-info" / "entry_points.txt").unlink()
    record = registry.get("guard")
    assert record.state == "not installed"
    assert record.is_missed
    assert record.granted.gates("tool_call", "bash")
    registry.disable("guard")
    assert registry.load() == ()


def test_a_plugin_that_broke_is_missed_with_its_grants_and_the_others_load(registry: Registry, site: Site) -> None:
    site.plugin("other")
    enable(registry)
    site.write("guard/ally-plugin.toml", "descripton = 1")
    states = {record.name: record.state for record in registry.load()}
    assert states == {"guard": "broken", "other": "waiting for consent"}
    record = registry.get("guard")
    assert record.is_missed
    assert record.granted.gates("tool_call", "bash")
    with pytest.raises(ConsentError, match="cannot be enabled"):
        registry.plan("guard")


def test_what_an_operator_writes_by_hand_still_waits_for_consent(registry: Registry, home: Home) -> None:
    home.prepare()
    home.config_file.write_text('[plugins.guard]\nenabled = true\ngrants = ["add_message:user", "tools"]\n')
    record = registry.get("guard")
    assert record.state == "waiting for consent"
    assert "nobody has agreed" in record.reason


def test_agreeing_to_what_was_written_by_hand_grants_no_more_than_that(registry: Registry, home: Home) -> None:
    home.prepare()
    home.config_file.write_text('[plugins.guard]\nenabled = true\ngrants = ["add_message:user", "tools"]\n')
    assert enable(registry).granted.texts() == ("add_message:user",)


def test_a_full_disk_is_an_operators_error(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    enable(registry)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    plan = registry.plan("guard")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        registry.quarantine("guard", "x")
    with pytest.raises(ConfigError, match="No space left"):
        registry.enable(plan)
    monkeypatch.undo()
    assert registry.get("guard").state == "enabled"


def test_a_grant_by_hand_beyond_what_was_agreed_to_has_no_effect(registry: Registry, home: Home) -> None:
    enable(registry, only=["add_message:user"])
    text = home.config_file.read_text()
    home.config_file.write_text(text.replace('"add_message:user"', '"add_message:user", "tools", "gate:tool_call"'))
    record = registry.get("guard")
    assert record.granted.texts() == ("add_message:user", "gate:tool_call:bash")
    assert len(record.warnings) == 1
    assert "'tools'" in record.warnings[0]


@pytest.mark.parametrize("content", [b"\xff", b"a = ", b"[plugins.guard]\nrequests = 3\n", b"plugins = 1", b"a = [[[["])
def test_a_damaged_consent_file_agrees_to_nothing(registry: Registry, home: Home, content: bytes) -> None:
    enable(registry)
    home.consent_file.write_bytes(content)
    (record,) = registry.load()
    assert record.state == "waiting for consent"
    assert any(str(home.consent_file) in problem for problem in registry.problems)
    assert enable(registry).state == "enabled"


def test_a_wrong_config_is_told_and_nothing_loads(registry: Registry, home: Home) -> None:
    home.prepare()
    home.config_file.write_text("[plugins.guard]\nenable = true\n")
    with pytest.raises(ConfigError, match=r"plugins\.guard\.enable: unknown key"):
        registry.load()


# Commands


def test_a_disabled_plugin_stays_disabled_with_its_grants(registry: Registry) -> None:
    enable(registry, only=["add_message:user"])
    registry.disable("guard")
    record = registry.get("guard")
    assert record.state == "disabled"
    assert not record.is_missed
    assert registry.review() == ()
    assert enable(registry).granted.texts() == ("add_message:user",)


def test_declining_a_new_plugin_takes_it_from_the_review(registry: Registry) -> None:
    registry.disable("guard")
    assert registry.get("guard").state == "disabled"
    assert registry.review() == ()


def test_grants_can_be_given_and_taken_back_one_by_one(registry: Registry) -> None:
    enable(registry, only=["add_message:user"])
    assert registry.grant("guard", "gate:tool_call:bash").data == {"grant": "gate:tool_call:bash"}
    registry.grant("guard", "gate:tool_call:bash")
    assert registry.get("guard").granted.texts() == ("add_message:user", "gate:tool_call:bash")
    assert registry.revoke("guard", "add_message").data == {"grants": ("add_message:user",)}
    assert registry.get("guard").granted.texts() == ("gate:tool_call:bash",)
    with pytest.raises(ConsentError, match="does not have the grant 'add_message:user'; it has gate:tool_call:bash"):
        registry.revoke("guard", "add_message:user")


def test_a_wider_grant_takes_the_place_of_the_narrower(registry: Registry, site: Site) -> None:
    update(site, MORE)
    enable(registry, only=["gate:tool_call:bash"])
    registry.grant("guard", "gate:tool_call")
    assert registry.get("guard").config.grants.texts() == ("gate:tool_call",)


def test_a_plugin_that_waits_cannot_be_granted_anything(registry: Registry) -> None:
    with pytest.raises(ConsentError, match="ally-plugins enable guard") as caught:
        registry.grant("guard", "add_message:user")
    assert caught.value.command == "ally-plugins enable guard"


@pytest.mark.parametrize(
    "command",
    [
        lambda registry: registry.plan("gaurd"),
        lambda registry: registry.disable("gaurd"),
        lambda registry: registry.grant("gaurd", "tools"),
        lambda registry: registry.revoke("gaurd", "tools"),
        lambda registry: registry.shadow("gaurd", hooks=True),
        lambda registry: registry.set_setting("gaurd", "a", "b"),
    ],
    ids=["plan", "disable", "grant", "revoke", "shadow", "set_setting"],
)
def test_an_unknown_plugin_is_an_error_that_names_the_nearest(
    registry: Registry, command: Callable[[Registry], object]
) -> None:
    with pytest.raises(OperatorError, match="did you mean 'guard'"):
        command(registry)


@pytest.mark.parametrize("text", ["add_mesage:user", "", "gate", "\x1b[2J"])
def test_a_malformed_grant_is_an_operators_error(registry: Registry, text: str) -> None:
    enable(registry)
    for command in (registry.grant, registry.revoke):
        if (command, text) != (registry.revoke, "gate"):  # taking back all of a kind is well-formed
            with pytest.raises(OperatorError):
                command("guard", text)


def test_shadow_takes_topics_and_hooks(registry: Registry) -> None:
    registry.shadow("guard", ["tool_call"])
    assert registry.get("guard").config.shadow == frozenset({"ally_gate_tool_call"})
    registry.shadow("guard", hooks=True)
    assert registry.get("guard").config.shadow is True
    registry.shadow("guard", hooks=False)
    assert registry.get("guard").config.shadow is False
    with pytest.raises(ConfigError, match="did you mean 'tool_call'"):
        registry.shadow("guard", ["tool_cal"])


def test_a_quarantined_plugin_stays_so_until_it_is_released(registry: Registry, home: Home) -> None:
    enable(registry)
    registry.quarantine("guard", "five crashes in sixty seconds")
    record = Registry(home).get("guard")
    assert record.state == "quarantined"
    assert record.is_missed
    assert record.reason == "five crashes in sixty seconds; to try again: ally-plugins release guard"
    assert registry.review() == (record,)
    registry.release("guard")
    assert registry.get("guard").state == "enabled"
    with pytest.raises(ConsentError, match="not in quarantine"):
        registry.release("guard")


@pytest.mark.parametrize("content", ["", "{", '{"other": "x"', "[]", "[" * 100_000, '{"guard": null}', "null"])
def test_whom_a_damaged_quarantine_may_name_stays_stopped_until_each_is_released(
    registry: Registry, home: Home, site: Site, content: str
) -> None:
    site.plugin("other", FIRST)
    enable(registry)
    enable(registry, "other")
    home.quarantine_file.write_text(content)
    assert [record.state for record in registry.load()] == ["quarantined", "quarantined"]
    assert "quarantine.json is damaged" in registry.get("guard").reason
    assert registry.get("guard").reason.endswith("ally-plugins release guard")
    assert any("quarantine.json is damaged" in problem for problem in registry.problems)
    registry.quarantine("guard", "five crashes")  # a host that runs on writes it anew, and lets nobody out
    assert [record.state for record in registry.load()] == ["quarantined", "quarantined"]
    registry.release("other")
    assert [record.state for record in registry.load()] == ["quarantined", "enabled"]
    assert registry.problems == ()
    with pytest.raises(ConsentError, match="not in quarantine"):
        registry.release("never-heard-of")


def test_a_forgotten_plugin_is_a_new_one_when_it_comes_again(registry: Registry) -> None:
    enable(registry)
    registry.quarantine("guard", "x")
    registry.forget("guard")
    record = registry.get("guard")
    assert record.state == "waiting for consent"
    assert record.agreement is None
    assert not record.config.grants
    assert enable(registry).state == "enabled"
    registry.forget("never-heard-of")


def test_two_commands_at_once_do_not_lose_each_others_edit(home: Home, site: Site) -> None:
    names = [f"p{i}" for i in range(8)]
    for name in names:
        site.plugin(name, FIRST)
    found = discover()
    registries = {name: Registry(home, find=lambda: found) for name in names}
    start = threading.Barrier(len(names))

    def run(name: str) -> None:
        start.wait()
        enable(registries[name], name)

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.state for record in Registry(home).load()] == ["enabled"] * len(names)


# ALLY_PLUGINS


@pytest.mark.parametrize(
    ("value", "enabled"),
    [("", "a b"), ("  ", "a b"), ("none", ""), ("a", "a"), (" a , b ,", "a b"), ("c", ""), ("none,a", "a")],
)
def test_the_variable_limits_what_is_loaded(
    home: Home, site: Site, monkeypatch: pytest.MonkeyPatch, value: str, enabled: str
) -> None:
    for name in "ab":
        site.plugin(name, FIRST)
        enable(Registry(home), name)
    monkeypatch.setenv("ALLY_PLUGINS", value)
    records = Registry(home).load()
    assert [record.name for record in records if record.is_enabled] == enabled.split()
    left_out = [record for record in records if not record.is_enabled]
    assert all(record.state == "left out" and not record.is_missed for record in left_out)


def test_the_variable_is_told_when_it_names_nobody(
    registry: Registry, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable(registry)
    monkeypatch.setenv("ALLY_PLUGINS", "gaurd")
    limited = Registry(home)
    limited.load()
    assert limited.problems == ("ALLY_PLUGINS names 'gaurd', which is not installed, did you mean 'guard'?",)


# Settings


@pytest.fixture
def configured(home: Home, site: Site) -> Registry:
    site.plugin("guard", FIRST + SETTINGS)
    registry = Registry(home)
    enable(registry)
    return registry


def test_a_required_setting_that_is_not_set_names_the_command(configured: Registry) -> None:
    record = configured.get("guard")
    assert record.state == "not configured"
    assert record.is_missed
    assert record.reason == "plugins.guard.settings.token: required and not set: ally-plugins config guard token"


def test_settings_are_typed_and_have_defaults(configured: Registry) -> None:
    configured.set_setting("guard", "token", "hunter2")
    assert configured.get("guard").settings == {"limit": 3, "mode": None, "token": "hunter2"}
    configured.set_setting("guard", "limit", "7")
    configured.set_setting("guard", "mode", "deny")
    assert configured.get("guard").settings == {"limit": 7, "mode": "deny", "token": "hunter2"}
    configured.set_setting("guard", "limit", None)
    assert configured.get("guard").settings["limit"] == 3


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("limit", "many", "plugins.guard.settings.limit: found 'many', expected a whole number"),
        ("mode", "wran", "expected one of warn, deny"),
        ("limt", "3", "no setting 'limt', did you mean 'limit'?"),
    ],
)
def test_a_wrong_setting_is_refused_and_nothing_changes(
    configured: Registry, home: Home, key: str, text: str, expected: str
) -> None:
    before = home.config_file.read_text()
    with pytest.raises(ConfigError) as caught:
        configured.set_setting("guard", key, text)
    assert expected in str(caught.value)
    assert home.config_file.read_text() == before


def test_a_secret_is_in_no_file_but_its_own_and_in_no_text(configured: Registry, home: Home) -> None:
    change = configured.set_setting("guard", "token", "hunter2")
    record = configured.get("guard")
    assert record.settings == {"limit": 3, "mode": None, "token": "hunter2"}
    assert change.data == {"key": "token", "is_removed": False, "secret": True}
    for text in (repr(change), repr(record), home.config_file.read_text(), home.consent_file.read_text()):
        assert "hunter2" not in text
    if sys.platform != "win32":
        assert home.secrets_file.stat().st_mode & 0o777 == 0o600


def test_a_secret_in_the_config_is_refused_without_being_shown(configured: Registry, home: Home) -> None:
    home.config_file.write_text(home.config_file.read_text() + '[plugins.guard.settings]\ntoken = "hunter2"\n')
    record = configured.get("guard")
    assert record.state == "not configured"
    assert "a secret is not kept in config.toml" in record.reason
    assert "hunter2" not in repr(record)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('limit = "3"', "plugins.guard.settings.limit: expected a whole number"),
        ("limit = true", "plugins.guard.settings.limit: expected a whole number"),
        ("limt = 3", "plugins.guard.settings.limt: unknown setting, did you mean 'limit'?"),
    ],
)
def test_a_wrong_value_written_by_hand_stops_the_plugin_and_names_the_key(
    configured: Registry, home: Home, lines: str, problem: str
) -> None:
    configured.set_setting("guard", "token", "x")
    home.config_file.write_text(home.config_file.read_text() + f"[plugins.guard.settings]\n{lines}\n")
    record = configured.get("guard")
    assert record.state == "not configured"
    assert problem in record.reason
    assert record.settings == {}


# By code


def test_a_plugin_given_by_code_has_what_its_manifest_asks_for() -> None:
    record = PluginRecord.by_code("guard", Manifest.from_text(FIRST + SETTINGS), settings={"limit": 5})
    assert record.is_enabled
    assert record.granted.texts() == ("add_message:user", "events:TOOL_CALL_END", "gate:tool_call:bash")
    assert record.settings == {"limit": 5, "mode": None, "token": None}
    assert record.source == "given by code"
    assert record.agreement is not None
    assert record.agreement.by == "code"


def test_a_plugin_given_by_code_without_a_manifest_may_do_everything_unless_grants_say_otherwise() -> None:
    assert PluginRecord.by_code("guard").granted == GrantSet.everything()
    assert PluginRecord.by_code("guard", grants=GrantSet()).granted == GrantSet()


def test_a_home_that_cannot_be_written_can_still_be_looked_at(home: Home, site: Site) -> None:
    site.plugin("guard", FIRST)
    home.path.write_text("not a directory")
    registry = Registry(home)
    assert [record.name for record in registry.load()] == ["guard"]
    with pytest.raises(ConfigError, match="cannot be used"):
        registry.disable("guard")

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.catalog.home.config import MAX_CONFIG_BYTES, PluginConfig, parse_config, read_config
from ally_plugins.catalog.home.config_edits import edit_config
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import GrantSet

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

FULL = """\
# my plugins
limits = { messages_per_minute = 10 }   # for all

[plugins.loop-guard]   # the important one
enabled = true
placement = "inline"
grants = [
    "add_message:user",     # it may speak
    "gate:tool_call:bash",
]
shadow = ["tool_call", "ally_transform_tool_input"]
mandatory = true
consent = "files"
on_error = { gate = "allow", transform = "block" }
deadlines = { gate = 5, ally_tool_call_end = 0.5 }

[plugins.loop-guard.limits]
events_per_minute = 0

[plugins.loop-guard.settings]
limit = 3

[plugins.other]
"""


def write(home: Home, text: str | bytes) -> None:
    home.prepare()
    home.config_file.write_bytes(text.encode() if isinstance(text, str) else text)


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml")
    assert caught.value.file == "config.toml"
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"\x00", b"a = ", b"[plugins", b"a = " + b"[" * 30_000, b"#" * (MAX_CONFIG_BYTES + 1)],
    ids=lambda content: repr(content[:8]),
)
def test_what_is_not_toml_is_a_config_error_and_is_never_overwritten(home: Home, content: bytes) -> None:
    write(home, content)
    with pytest.raises(ConfigError) as caught:
        read_config(home)
    assert str(home.config_file) in str(caught.value)
    with pytest.raises(ConfigError):
        edit_config(home, "p", lambda _: {"enabled": True})
    assert home.config_file.read_bytes() == content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[plugin.x]", "plugin: unknown key, did you mean 'plugins'?"),
        ("plugins = 3", "plugins: found 3, expected a table"),
        ("[plugins.Bad]", "plugins: found the name 'Bad'"),
        ("[plugins.x]\nenable = true", "plugins.x.enable: unknown key, did you mean 'enabled'?"),
        ('[plugins.x]\nenabled = "yes"', "plugins.x.enabled: found 'yes', expected true or false"),
        ("[plugins.x]\nenabled = 1", "plugins.x.enabled: found 1, expected true or false"),
        ('[plugins.x]\nplacement = "inlin"', "plugins.x.placement: found 'inlin', did you mean 'inline'?"),
        ('[plugins.x]\ngrants = "tools"', "plugins.x.grants: found 'tools', expected a list"),
        ('[plugins.x]\ngrants = ["add_mesage:user"]', "did you mean 'add_message:user'?"),
        ('[plugins.x]\nshadow = ["tool_cal"]', "plugins.x.shadow: found 'tool_cal', did you mean 'tool_call'?"),
        ('[plugins.x]\nshadow = "all"', "plugins.x.shadow: found 'all', expected true or false"),
        ('[plugins.x]\nconsent = "file"', "plugins.x.consent: found 'file', did you mean 'files'?"),
        ('[plugins.x]\non_error = "allow"', "plugins.x.on_error: found 'allow', expected a table such as"),
        ('[plugins.x.on_error]\ngate = "drop"', "plugins.x.on_error.gate: found 'drop', expected one of allow, deny"),
        ("[plugins.x.on_error]\ngates = 1", "plugins.x.on_error.gates: unknown key, did you mean 'gate'?"),
        ("[plugins.x.deadlines]\nally_gate_toolcall = 1", "did you mean 'ally_gate_tool_call'?"),
        ("[plugins.x.deadlines]\ngate = 0", "plugins.x.deadlines.gate: found 0, expected a number above 0"),
        ("[plugins.x.deadlines]\ngate = inf", "plugins.x.deadlines.gate: found inf"),
        ("[plugins.x.deadlines]\nally_add_message = 1", "ally_add_message: unknown key"),
        ("[plugins.x.limits]\nmessage_per_minute = 1", "did you mean 'messages_per_minute'?"),
        ("[plugins.x.limits]\nevents_per_minute = -1", "expected a whole number from 0"),
        ("[plugins.x.limits]\nevents_per_minute = 1.5", "found 1.5, expected a whole number"),
        ("[plugins.x.limits]\nevents_per_minute = true", "found true, expected a whole number"),
        ("[limits]\nx = 1", "limits.x: unknown key"),
        ('sources = "packages"', "sources: found 'packages', expected a list of texts"),
        ('sources = ["Bad"]', "sources: found 'Bad', expected the names of sources"),
        ('sources = ["folder"]', "sources: found 'folder', expected the names of sources"),
        ('sources = ["toy"]\n[plugins.x]\nsource = "tyo"', "plugins.x.source: found 'tyo', did you mean 'toy'?"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(text: str, expected: str) -> None:
    assert expected in error_of(text)


def test_all_mistakes_are_named_at_once() -> None:
    text = error_of("[plugins.x]\nenable = 1\nplacement = 2\n[plugins.y]\nshadow = 3\n")
    assert "3 problems" in text
    assert all(path in text for path in ("plugins.x.enable", "plugins.x.placement", "plugins.y.shadow"))


def test_what_a_person_wrote_under_settings_is_not_shown(home: Home) -> None:
    write(home, '[plugins.x.settings]\ntoken = "hunter2"\n')
    assert "hunter2" not in repr(read_config(home))


def test_without_a_file_nothing_is_enabled(home: Home) -> None:
    config = read_config(home)
    assert config.of("anything") == PluginConfig()
    assert not config.of("anything").enabled


def test_a_full_file_is_read(home: Home) -> None:
    write(home, FULL)
    config = read_config(home)
    plugin = config.of("loop-guard")
    assert plugin.enabled
    assert plugin.mandatory
    assert plugin.grants == GrantSet.of(["add_message:user", "gate:tool_call:bash"])
    assert plugin.shadow == frozenset({"ally_gate_tool_call", "ally_transform_tool_input"})
    assert (plugin.gate_on_error, plugin.transform_on_error, plugin.consent) == ("allow", "block", "files")
    assert plugin.deadlines == {"gate": 5.0, "ally_tool_call_end": 0.5}
    assert plugin.limits == Limits(messages_per_minute=10, events_per_minute=0)
    assert plugin.settings == {"limit": 3}
    assert not config.of("other").is_decided
    assert config.of("third").limits.messages_per_minute == 10


def test_an_edit_changes_what_it_means_and_not_one_byte_more(home: Home) -> None:
    write(home, FULL)
    edit_config(home, "loop-guard", lambda _: {"mandatory": False, "settings": {"limit": 4}})
    after = FULL.replace("mandatory = true", "mandatory = false").replace("limit = 3", "limit = 4")
    assert home.config_file.read_text() == after


def test_a_new_plugin_is_added_at_the_end(home: Home) -> None:
    write(home, FULL)
    edit_config(home, "third", lambda _: {"enabled": True, "grants": ["tools"]})
    text = home.config_file.read_text()
    assert text.startswith(FULL)
    assert read_config(home).of("third").grants == GrantSet.of(["tools"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_of_byte_order_is_passed_over_and_goes_with_the_next_edit(home: Home, encoding: str) -> None:
    home.prepare()
    home.config_file.write_bytes("# für mich\n[limits]\nmessages_per_minute = 5\n".encode(encoding))
    assert read_config(home).of("p").limits.messages_per_minute == 5
    edit_config(home, "p", lambda _: {"enabled": True})
    assert home.config_file.read_text("utf-8").startswith("# für mich\n[limits]\nmessages_per_minute = 5\n")
    assert read_config(home).of("p").enabled


def test_an_edit_sees_what_stands_there_and_may_remove_it(home: Home) -> None:
    write(home, FULL)
    seen: list[dict[str, Any]] = []

    def change(now: dict[str, Any]) -> dict[str, Any]:
        seen.append(dict(now))
        return {"shadow": None, "settings": {"limit": None, "absent": None}}

    edit_config(home, "loop-guard", change)
    assert seen[0]["mandatory"] is True
    plugin = read_config(home).of("loop-guard")
    assert plugin.shadow is False
    assert plugin.settings == {}
    assert "# it may speak" in home.config_file.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "plugins = {}\n",
        "plugins = { p = { enabled = false } }\n",
        "plugins.p.enabled = false\n",
        "[plugins]\np = { enabled = false }\n",
        "[plugins]\np.enabled = false\n",
        "[plugins.p]\nenabled = false\n[limits]\ntools = 3\n[plugins.q]\nenabled = true\n",
        "[plugins.q]\n[plugins.p]\n",
        "[plugins.p.settings]\na = 1\n[plugins.p]\nenabled = false\n",
        '[plugins."p"]\nenabled = false\n',
        "[plugins.p]\r\nenabled = false\r\n",
        "[plugins.p]\nenabled = false",
    ],
)
def test_every_way_to_write_the_file_can_be_edited(home: Home, text: str) -> None:
    write(home, text)
    before = tomllib.loads(text)
    edit_config(home, "p", lambda _: {"enabled": True, "grants": ["tools"], "settings": {"x": 1}})
    after = tomllib.loads(home.config_file.read_text())
    expected = before.get("plugins", {}).get("p", {})
    settings = {**expected.get("settings", {}), "x": 1}
    assert after["plugins"]["p"] == {**expected, "enabled": True, "grants": ["tools"], "settings": settings}
    assert after["plugins"].get("q") == before.get("plugins", {}).get("q")
    assert after.get("limits") == before.get("limits")


def test_an_edit_that_would_make_the_file_wrong_is_refused_and_nothing_is_written(home: Home) -> None:
    write(home, FULL)
    with pytest.raises(ConfigError, match=r"plugins\.loop-guard\.enabled"):
        edit_config(home, "loop-guard", lambda _: {"enabled": "perhaps"})
    assert home.config_file.read_text() == FULL


def test_a_disk_that_is_full_leaves_the_file_as_it_was(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, FULL)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        edit_config(home, "loop-guard", lambda _: {"enabled": False})
    assert home.config_file.read_text() == FULL


values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=6,
)
KEYS = [
    "enabled",
    "placement",
    "grants",
    "shadow",
    "mandatory",
    "consent",
    "on_error",
    "deadlines",
    "limits",
    "settings",
]


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), values, max_size=5))
def test_any_table_is_a_config_or_a_config_error(table: dict[str, Any]) -> None:
    import tomlkit

    try:
        text = tomlkit.dumps({"plugins": {"p": table}})
        tomllib.loads(text)
    except (ValueError, TypeError):  # not everything that Python has can be written
        return
    try:
        config = parse_config(text, "config.toml")
    except ConfigError:
        return
    assert set(config.plugins) == {"p"}


@pytest.mark.parametrize("value", ["inf", "nan", "2026-01-01", "[1, 12:00:00]"])
def test_a_setting_that_no_setting_can_be_is_a_mistake_in_the_file(value: str) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.p\.settings\.x: found"):
        parse_config(f"[plugins.p.settings]\nx = {value}\n", "config.toml")

"""Looking at one plugin: the same answer as from a look at all of them, at the price of one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site

ASKS = '[permissions]\nadd_message = { roles = ["user", "system"], reason = "to speak" }\n'
DAEMON = f'[daemon]\ncommand = ["./run.sh"]\n{ASKS}'
LEGACY = {
    "name": "monitor",
    "version": "1.0.0",
    "tools": [{"name": "stats", "command": "stats.sh", "schema": {"type": "object", "properties": {}}}],
}


def folder(home: Home, name: str, files: dict[str, str]) -> None:
    directory = home.plugins_dir / name
    directory.mkdir(parents=True)
    for file, content in files.items():
        (directory / file).write_text(content)


@pytest.fixture
def registry(home: Home, site: Site) -> Registry:
    site.plugin("guard", ASKS)
    site.plugin("new", ASKS)
    site.plugin("broken", "descripton = 1")
    site.plugin("both", ASKS)
    folder(home, "both", {"ally-plugin.toml": DAEMON, "run.sh": ""})
    folder(home, "counter", {"ally-plugin.toml": DAEMON, "run.sh": ""})
    folder(home, "elsewhere", {"plugin.json": json.dumps(LEGACY), "stats.sh": ""})
    folder(home, "torn", {"plugin.json": '{"name": "torn", "tools": 3}'})
    registry = Registry(home)
    for name in ("guard", "folder:both", "counter", "monitor"):
        registry.enable(registry.plan(name))
    registry.quarantine("counter", "five crashes")
    home.config_file.write_text(home.config_file.read_text() + "\n[plugins.gone]\nenabled = true\ngrants = []\n")
    return registry


@pytest.mark.slow
def test_one_plugin_is_what_it_is_among_all(registry: Registry) -> None:
    counting = [record for record in registry.load() if not record.is_set_aside]
    assert {record.name: record.state for record in counting} == {
        "both": "enabled", "broken": "broken", "counter": "quarantined", "gone": "not installed", "guard": "enabled",
        "monitor": "enabled", "new": "waiting for consent", "torn": "broken",
    }  # fmt: skip
    assert [registry.load_one(record.name) for record in counting] == counting
    assert [registry.get(record.name) for record in counting] == counting
    package = next(record for record in registry.load() if record.is_set_aside)
    assert registry.get("package:both") == package


def test_what_is_neither_installed_nor_enabled_is_none(registry: Registry) -> None:
    assert registry.load_one("elsewhere") is None  # the folder's name, and not that of its plugin
    assert registry.load_one("nobody") is None
    with pytest.raises(ConfigError, match="no plugin 'montor' is installed, did you mean 'monitor'"):
        registry.get("montor")


def test_one_plugin_of_which_an_emptied_config_says_nothing_is_an_error(registry: Registry, home: Home) -> None:
    home.config_file.write_text("[plugins.guard]\nenabled = true\ngrants = []\n")
    assert registry.load_one("guard")
    with pytest.raises(ConfigError, match="does not say whether 'counter' is enabled"):
        registry.load_one("counter")
    home.consent_file.write_text("[plugins.guard")
    home.config_file.write_text("")
    with pytest.raises(ConfigError, match="what was agreed to cannot be read"):
        registry.load_one("guard")


def calls_of_a_grant(registry: Registry) -> int:
    registry.revoke("guard", "add_message:system")
    calls = 0

    def count(frame: Any, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and "ally_plugins" in frame.f_code.co_filename

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        registry.grant("guard", "add_message:system")
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.slow
def test_a_grant_costs_the_same_whatever_else_is_installed(registry: Registry, home: Home, site: Site) -> None:
    few = calls_of_a_grant(registry)
    for i in range(20):
        site.plugin(f"other-{i}", ASKS)
        folder(home, f"beside-{i}", {"ally-plugin.toml": DAEMON, "run.sh": "", "more.sh": ""})
    more = calls_of_a_grant(registry) - few
    assert more < 20 * 40  # that each distribution is looked through for the name, and each folder trusted

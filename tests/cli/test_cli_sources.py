"""Sources as the operator sees them: who found a plugin, what one that fails leaves, and what a wrong name says."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.discovery import configured_sources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Operator

SOURCE = """
from ally_plugins import Deny, Discovery, Found, Manifest, Source, hookimpl

class Guard:
    def __init__(self, ally):
        pass

    @hookimpl
    def ally_gate_tool_call(self, call):
        return Deny("no")

class Words(Source):
    def find(self, search):
        if (search.home / "fail").exists():
            raise OSError("the words are gone")
        gate = {"gate": {"on": ["tool_call"], "reason": "to say no"}}
        manifest = Manifest.from_mapping({"description": "says no", "permissions": gate}, "guard")
        return Discovery((Found(name="guard", version="3", manifest=manifest, plugin=Guard),))
"""


@pytest.fixture
def named(operator: Operator) -> Iterator[Operator]:
    """Return an operator who has named a source of another distribution beside ours."""
    configured_sources._imported.cache_clear()
    operator.write("words_source.py", SOURCE)
    operator.write("words-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: words\nVersion: 1\n")
    operator.write("words-1.dist-info/entry_points.txt", "[ally.sources]\nwords = words_source:Words\n")
    operator.home.prepare()
    operator.home.config_file.write_text('sources = ["packages", "folders", "code_ally", "words"]\n')
    yield operator
    configured_sources._imported.cache_clear()
    sys.modules.pop("words_source", None)


def test_who_found_a_plugin_is_said_wherever_it_is_shown(named: Operator) -> None:
    named.install()
    by_name = {each["name"]: each for each in named.ask("list")["plugins"]}
    assert {name: each["found_by"] for name, each in by_name.items()} == {"loop-warner": "packages", "guard": "words"}
    assert by_name["guard"]["source"] == "words:guard 3 (words)"
    assert "words:guard 3 (words)" in named.run("list").stdout
    assert "found by" in named.run("review").stdout
    assert named.ask("info", "guard")["found_by"] == "words"
    doctor = named.run("doctor").stdout
    assert "source packages: found loop-warner" in doctor
    assert "source words: found guard" in doctor
    assert "source folders: found nothing" in doctor


def test_its_plugin_is_agreed_to_granted_and_shown_as_any(named: Operator) -> None:
    named.run("enable", "guard", "--yes")
    named.run("revoke", "guard", "gate:tool_call")
    named.run("grant", "guard", "gate:tool_call")
    assert named.ask("info", "guard")["grants"] == ["gate:tool_call"]
    assert named.home.config_file.read_text().startswith('sources = ["packages", "folders", "code_ally", "words"]\n')
    named.run("place", "guard", "process", code=1)


def test_a_source_that_fails_is_a_problem_of_doctor_and_its_plugin_says_why(named: Operator) -> None:
    named.run("enable", "guard", "--yes")
    (named.home.path / "fail").touch()
    assert (
        "problem: the source 'words' found nothing: it raised OSError: the words are gone" in named.run("list").stdout
    )
    found = [each["text"] for each in named.ask("doctor", code=1)["findings"] if each["level"] == "problem"]
    assert found[0].startswith("the source 'words' found nothing: it raised OSError: the words are gone")
    assert found[1].startswith("not installed: its source 'words' found nothing")
    assert any("gates deny" in each["text"] for each in named.ask("doctor", code=1)["findings"])


def test_a_source_that_nobody_offers_stops_what_looks_at_plugins_and_names_the_way_out(named: Operator) -> None:
    named.home.config_file.write_text('sources = ["packages", "wrods"]\n')
    shown = named.run("list", code=2).stderr
    assert "names the source 'wrods': no installed distribution offers it" in shown
    assert shown.endswith("or take it out of 'sources': did you mean 'words'?\n")
    assert json.dumps("wrods") in named.home.config_file.read_text()
    assert "take it out of 'sources'" in named.run("doctor", code=1).stdout

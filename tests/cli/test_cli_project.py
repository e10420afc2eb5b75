"""`project`: what applies in a folder and why; nothing of one is read before somebody trusts it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Operator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="projects are trusted on POSIX only")

RULES = """
mandatory = ["loop-warner"]
deny_tools = ["web"]
[plugins.loop-warner]
grants = ["tools"]
deadlines = { gate = 5 }
[plugins.loop-warner.settings]
limit = 7
"""
DAEMON = """
description = "counts"
[daemon]
command = ["./run.sh"]
[permissions]
emit_event = { reason = "to count" }
"""


@pytest.fixture
def repo(operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001 - its home comes first
    """Return a repository with an `.ally`, in which commands are run."""
    root = tmp_path / "repo"
    (root / ".git").mkdir(parents=True)
    (root / ".ally").mkdir()
    (root / ".ally" / "project.toml").write_text(RULES)
    monkeypatch.chdir(root)
    return root


def add_plugin(repo: Path) -> Path:
    folder = repo / ".ally" / "plugins" / "counter"
    folder.mkdir(parents=True)
    (folder / "ally-plugin.toml").write_text(DAEMON)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    return folder


def test_what_was_not_trusted_is_not_read_and_said_wherever_one_looks(operator: Operator, repo: Path) -> None:
    (repo / ".ally" / "project.toml").write_bytes(b"\xff no toml")
    (repo / ".ally" / "project.toml").chmod(0o777)
    assert operator.ask("project")["state"] == "not trusted"
    line = f"{repo}/.ally is not trusted, and nothing of it is read: ally-plugins project trust"
    assert line in operator.run("project").stdout
    assert f"project: {line}" in operator.run("list").stdout
    found = operator.run("doctor").stdout
    assert f"{repo}/.ally is not trusted" in found
    assert "ally-plugins project trust" in found
    assert not operator.home.projects_file.exists()


def test_without_a_yes_nothing_is_trusted_and_all_of_it_was_shown(warner: Operator, repo: Path) -> None:
    add_plugin(repo)
    result = warner.run("project", "trust", code=1)
    for line in (
        "must run: loop-warner; else no session opens, and no call of the agent runs",
        "denied tools of the agent: web",
        "loop-warner may do at most: tools; it guards as ever",
        "loop-warner has to answer within: gate 5 s; where being late denies",
        "proposes settings of loop-warner: limit = 7",
        "adds the plugin counter, which waits for your consent: ally-plugins enable counter",
        "plugins/counter/run.sh",
    ):
        assert line in result.stdout
    assert f"ally-plugins project trust {repo} --yes" in result.stderr
    assert not warner.home.projects_file.exists()
    assert warner.records() == []


def test_what_is_trusted_is_recorded_and_shown_with_what_still_waits(enabled: Operator, repo: Path) -> None:
    add_plugin(repo)
    assert enabled.ask("project", "trust", "--yes")["changed"] is True
    (record,) = enabled.records("trust")
    assert record["data"]["folder"] == str(repo)
    assert record["data"]["text"] == RULES
    (repo / "src").mkdir()
    answer = enabled.ask("project", "show", "src")
    (applies,) = answer["applies"]
    assert answer["state"] == "trusted"
    assert applies["mandatory"] == ["loop-warner"]
    assert applies["plugins"]["loop-warner"] == {"takes_part": True, "grants": ["tools"], "deadlines": {"gate": 5}}
    assert applies["adds"] == [{"name": "counter", "state": "waiting for consent"}]
    assert applies["settings"] == [{"plugin": "loop-warner", "key": "limit", "value": 7}]
    enabled.run("config", "loop-warner", "limit=7")
    assert enabled.ask("project")["applies"][0]["settings"] == []
    assert f"in {repo} only; " in enabled.run("list").stdout
    (counter,) = [each for each in enabled.ask("list")["plugins"] if each["name"] == "counter"]
    assert counter["project"] == str(repo)
    again = enabled.run("project", "trust", "--yes")
    assert "is trusted already, as it is" in again.stdout
    assert len(enabled.records("trust")) == 1


def test_a_change_of_the_content_waits_and_says_what_would_hold_no_longer(enabled: Operator, repo: Path) -> None:
    enabled.run("project", "trust", "--yes")
    (repo / ".ally" / "project.toml").write_text('deny_tools = ["web"]\n')
    line = f"{repo}/.ally has changed, and what was trusted holds: ally-plugins project trust"
    assert line in enabled.run("list").stdout
    assert line in enabled.run("project").stdout
    assert enabled.ask("project")["applies"][0]["mandatory"] == ["loop-warner"]
    shown = enabled.run("project", "trust", code=1).stdout
    assert "no longer: must run: loop-warner" in shown
    assert "no longer: loop-warner may do at most: tools" in shown
    enabled.run("project", "trust", "--yes")
    assert enabled.ask("project")["applies"][0]["mandatory"] == []


def test_what_was_trusted_is_gone_or_cannot_be_looked_at_any_more(enabled: Operator, repo: Path) -> None:
    enabled.run("project", "trust", "--yes")
    (repo / ".ally").chmod(0o777)
    assert enabled.ask("project")["state"] == "refused"
    assert "can be written by everybody" in enabled.run("project").stdout
    (repo / ".ally").chmod(0o755)
    (repo / ".ally" / "project.toml").unlink()
    (repo / ".ally").rmdir()
    assert "is gone, and what was trusted holds" in enabled.run("project").stdout
    enabled.run("project", "untrust")
    assert "plugins do here what they do everywhere" in enabled.run("project").stdout
    assert [record["data"]["folder"] for record in enabled.records("untrust")] == [str(repo)]
    enabled.run("project", "untrust", code=2)


def test_a_trust_that_cannot_be_recorded_is_none(enabled: Operator, repo: Path) -> None:  # noqa: ARG001 - the folder to be in
    enabled.home.audit_head_file.write_bytes(b"damaged")
    enabled.run("project", "trust", "--yes", code=3)
    assert not enabled.home.projects_file.exists()


@pytest.mark.parametrize("text", ["[plugins.x]\nenabled = true\n", "shadow = true\n", "[" * 3000])
def test_what_would_loosen_or_is_no_file_of_ours_cannot_be_trusted(operator: Operator, repo: Path, text: str) -> None:
    (repo / ".ally" / "project.toml").write_text(text)
    operator.run("project", "trust", "--yes", code=2)
    assert not operator.home.projects_file.exists()


def test_damage_to_what_was_trusted_is_a_problem_that_doctor_names(enabled: Operator, repo: Path) -> None:  # noqa: ARG001
    enabled.run("project", "trust", "--yes")
    enabled.home.projects_file.write_text("{")
    found = json.loads(enabled.run("doctor", "--json", code=1).stdout)["findings"]
    assert [each["level"] for each in found if each["topic"] == "project"] == ["problem"]
    enabled.run("project", code=2)

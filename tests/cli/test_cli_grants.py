from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator


def granted(operator: Operator) -> list[str]:
    found: list[str] = operator.ask("list")["plugins"][0]["grants"]
    return found


def test_grant_and_revoke_change_what_it_may_and_are_recorded(enabled: Operator) -> None:
    enabled.run("revoke", "loop-warner", "add_message:user", "gate")
    assert granted(enabled) == ["events:TOOL_CALL_END", "tools"]
    shown = enabled.run("grant", "loop-warner", "add_message:user").stdout
    assert "loop-warner is granted add_message:user" in shown
    assert granted(enabled) == ["add_message:user", "events:TOOL_CALL_END", "tools"]
    kinds = [record["kind"] for record in enabled.records("grant", "revoke")]
    assert kinds == ["revoke", "revoke", "grant"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("grant", "loop-warner", "add_message:usr"), 2, "did you mean 'add_message:user'?"),
        (("grant", "loop-warner", "tasks"), 1, "does not ask for 'tasks'"),
        (("grant", "loop-warnr", "tools"), 2, "did you mean 'loop-warner'?"),
        (("revoke", "loop-warner", "emit_event"), 1, "it has add_message:user"),
        (("release", "loop-warner"), 1, "is not in quarantine"),
        (("shadow", "loop-warner", "tool_cal"), 2, "tool_call"),
        (("shadow", "loop-warner", "tool_call", "--off"), 2, "--off"),
        (("disable", "nobody"), 2, "no plugin 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_names_the_way_out(
    enabled: Operator, words: tuple[str, ...], code: int, text: str
) -> None:
    result = enabled.run(*words, code=code)
    assert result.stdout == ""
    assert result.stderr.startswith("ally-plugins: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr
    assert len(enabled.records()) == 1


def test_a_plugin_that_nobody_agreed_to_gets_no_grant(warner: Operator) -> None:
    assert "ally-plugins enable loop-warner" in warner.run("grant", "loop-warner", "tools", code=1).stderr


def test_of_several_grants_those_before_a_wrong_one_stand_and_are_recorded(enabled: Operator) -> None:
    enabled.run("revoke", "loop-warner", "tools", "gate")
    enabled.run("grant", "loop-warner", "tools", "nonsense", "gate:tool_call:bash", code=2)
    assert granted(enabled) == ["add_message:user", "events:TOOL_CALL_END", "tools"]
    assert [record["data"]["grant"] for record in enabled.records("grant")] == ["tools"]


def test_shadow_watches_all_or_some_and_can_be_ended(enabled: Operator) -> None:
    enabled.run("shadow", "loop-warner")
    assert enabled.ask("list")["plugins"][0]["shadow"] is True
    assert "shadow mode" in enabled.run("list").stdout
    enabled.run("shadow", "loop-warner", "gate:tool_call")
    assert enabled.ask("list")["plugins"][0]["shadow"] == ["ally_gate_tool_call"]
    enabled.run("shadow", "loop-warner", "--off")
    assert enabled.ask("list")["plugins"][0]["shadow"] is False
    assert len(enabled.records("shadow")) == 3


def test_disable_keeps_the_grants_for_the_next_time(enabled: Operator) -> None:
    enabled.run("disable", "loop-warner")
    assert enabled.ask("list")["plugins"][0]["state"] == "disabled"
    enabled.run("enable", "loop-warner", "--yes")
    assert "tools" in granted(enabled)


def test_release_ends_a_quarantine(enabled: Operator) -> None:
    Registry(enabled.home).quarantine("loop-warner", "5 crashes in 60 s")
    assert "5 crashes in 60 s" in enabled.run("list").stdout
    enabled.run("release", "loop-warner")
    assert enabled.ask("list")["plugins"][0]["state"] == "enabled"
    assert [record["kind"] for record in enabled.records("release")] == ["release"]


MINDS = """
description = "minds what is said"
[permissions]
gate = { on = ["user_message", "answer", "stop"], reason = "to mind it" }
transform = { on = ["answer"], reason = "to mend it" }
"""


def test_a_person_reads_what_gates_of_words_may_do_and_may_hold_a_plugin_to_whole_answers(operator: Operator) -> None:
    operator.install(manifest=MINDS.replace("reason = ", 'mode = "sentence", reason = ', 1))
    shown = operator.run("enable", "loop-warner", "--yes", "--only", "gate:answer").stdout
    for words in (
        "may refuse each message of yours",
        "may cut each answer at the end of a sentence; you see what it agreed to until then",
        "may send the agent on when it wants to end its turn, three times in a row",
        "may change each answer, of which you see nothing before that",
    ):
        assert words in shown
    assert granted(operator) == ["gate:answer"]
    operator.run("grant", "loop-warner", "gate:answer:sentence")
    assert granted(operator) == ["gate:answer:sentence"]
    operator.run("revoke", "loop-warner", "gate:answer")
    assert granted(operator) == []


def test_a_gate_of_answers_that_comes_to_show_something_before_its_verdict_waits_for_a_new_consent(
    operator: Operator,
) -> None:
    operator.install(manifest=MINDS)
    operator.run("enable", "loop-warner", "--yes")
    operator.install(manifest=MINDS.replace("reason = ", 'mode = "sentence", reason = ', 1), version="1.1")
    (plugin,) = operator.ask("list")["plugins"]
    assert plugin["state"] == "waiting for consent"
    assert "it asks for more than was agreed to: gate:answer:sentence" in plugin["reason"]


def test_a_topic_that_is_gated_and_transformed_is_watched_in_both(operator: Operator) -> None:
    operator.install(manifest=MINDS)
    operator.run("enable", "loop-warner", "--yes")
    operator.run("shadow", "loop-warner", "answer")
    record = Registry(operator.home).get("loop-warner")
    assert record.config.shadow == frozenset({"ally_gate_answer", "ally_transform_answer"})


WRITER = """
description = "writes the docs"
[permissions]
files = {{ read = ["project"], write = ["project/docs"{more}], reason = "to write the docs" }}
network = {{ reason = "to look words up" }}
run = {{ programs = ["git"], reason = "to see what changed" }}
env = {{ names = ["WORDS_KEY"], reason = "to be let in" }}
"""
BESIDE = ["env:WORDS_KEY", "files:read:project", "files:write:project/docs", "network", "run:git"]


def test_a_person_reads_in_plain_words_what_a_plugin_may_do_beside_the_host(operator: Operator) -> None:
    operator.install(manifest=WRITER.format(more=', "/srv/out"'))
    shown = operator.enable().stdout
    for words in (
        "may read every file of the project",
        "may read, change and delete project/docs and every file below it, and add some",
        "may read, change and delete /srv/out and every file below it, and add some",
        "may open connections to the network, to anywhere",
        "may start git, in the same box with the same rights",
        "is given your environment's WORDS_KEY",
        "to write the docs",
        "to look words up",
        "run:git: holds in the placement sandbox only: inline, it may do that and more",
    ):
        assert words in shown
    note = (
        "files:read:project, files:write:/srv/out, files:write:project/docs, network, run:git: holds in the placement"
    )
    for look in (("list",), ("info", "loop-warner"), ("doctor",)):
        assert note in operator.run(*look).stdout
    (plugin,) = operator.ask("list")["plugins"]
    assert plugin["unheld"] == operator.ask("info", "loop-warner")["unheld"]
    assert plugin["unheld"] == sorted([*BESIDE[1:], "files:write:/srv/out"])


def test_an_operator_narrows_files_to_a_folder_in_commands_and_in_config_toml(operator: Operator) -> None:
    operator.install(manifest=WRITER.format(more=""))
    operator.run("enable", "loop-warner", "--yes")
    operator.run("revoke", "loop-warner", "files:read:project", "network")
    assert "'files:read:/etc'" in operator.run("grant", "loop-warner", "files:read:/etc", code=1).stderr
    shown = operator.run("grant", "loop-warner", "files:read:project/src").stdout
    assert "loop-warner is granted files:read:project/src" in shown
    assert granted(operator) == ["env:WORDS_KEY", "files:read:project/src", "files:write:project/docs", "run:git"]
    kinds = [(record["kind"], record["data"].get("grant") or record["data"].get("grants")) for record in
             operator.records("grant", "revoke")]  # fmt: skip
    assert kinds == [
        ("revoke", ["files:read:project"]),
        ("revoke", ["network"]),
        ("grant", "files:read:project/src"),
    ]
    # By hand, wider than what was agreed to: no more is granted than that.
    text = operator.home.config_file.read_text().replace("files:read:project/src", "files:read:/")
    operator.home.config_file.write_text(text)
    assert granted(operator) == ["env:WORDS_KEY", "files:write:project/docs", "run:git"]
    operator.run("revoke", "loop-warner", "files")
    assert granted(operator) == ["env:WORDS_KEY", "run:git"]


def test_a_plugin_that_comes_to_ask_for_more_files_waits_and_the_difference_is_shown(operator: Operator) -> None:
    operator.install(manifest=WRITER.format(more=""))
    operator.run("enable", "loop-warner", "--yes")
    operator.install(manifest=WRITER.format(more=', "project"'), version="1.1")
    (plugin,) = operator.ask("list")["plugins"]
    assert plugin["state"] == "waiting for consent"
    assert "it asks for more than was agreed to: files:write:project;" in plugin["reason"]
    assert "asks newly for files:write:project" in operator.run("review").stdout
    assert "waits for consent" in operator.run("grant", "loop-warner", "files:write:project", code=1).stderr


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/", "home", "below the home", "a link to the home", "above the home"])
def test_what_holds_the_consent_or_lies_beside_it_is_granted_to_nobody(
    operator: Operator, tmp_path: Path, place: str
) -> None:
    home = operator.home.path
    link = tmp_path / "link"
    link.symlink_to(home, target_is_directory=True)
    places = {
        "/": "/",
        "home": str(home),
        "below the home": str(home / "journal.db"),
        "a link to the home": str(link),
        "above the home": str(home.parent),
    }
    path = places[place]
    operator.install(manifest=WRITER.format(more="").replace('["project"]', f'["project", "{path}"]'))
    shown = operator.run("enable", "loop-warner", "--yes").stdout
    assert f"files:read:{path} cannot be granted: " in shown
    assert "where the plugins' consent, journal and secrets are kept" in shown
    assert granted(operator) == BESIDE
    refused = operator.run("grant", "loop-warner", f"files:read:{path}", code=1).stderr
    assert "where the plugins' consent, journal and secrets are kept; grant a narrower path" in refused
    assert granted(operator) == BESIDE
    operator.run("disable", "loop-warner")
    operator.run("enable", "loop-warner", "--yes", "--only", f"files:read:{path}", code=1)
    asked = operator.ask("enable", "loop-warner", "--yes", "--only", "network")["requests"]
    assert [each["grant"] for each in asked if each["refused"]] == [f"files:read:{path}"]


def test_the_code_of_another_plugin_may_be_read_and_written_by_nobody(operator: Operator) -> None:
    root = operator.site
    manifest = f"""
description = "reads the site"
[permissions]
files = {{ read = ["{root}"], write = ["{root}/loop_warner"], reason = "to look" }}
"""
    operator.install(manifest=manifest)
    shown = operator.run("enable", "loop-warner", "--yes").stdout
    assert f"files:write:{root}/loop_warner cannot be granted: " in shown
    assert granted(operator) == [f"files:read:{root}"]


@pytest.mark.parametrize(
    "words",
    [
        ("enable", "loop-warner", "--only", "tools", "--yes"),
        ("disable", "loop-warner"),
        ("grant", "loop-warner", "tools"),
        ("revoke", "loop-warner", "gate"),
        ("shadow", "loop-warner"),
        ("release", "loop-warner"),
        ("config", "loop-warner", "limit=9"),
        ("place", "loop-warner", "inline"),
        ("env", "loop-warner", "--remove", "--yes"),
        ("install", "./other"),
        ("uninstall", "loop-warner", "--yes"),
        ("restart", "loop-warner"),
        ("tasks", "--cancel", "t1"),
        ("prune", "--older-than", "0d", "--yes"),
    ],
    ids=lambda words: str(words[0]),
)
def test_a_command_that_a_plugins_process_runs_changes_nothing(
    enabled: Operator, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    files = (enabled.home.config_file, enabled.home.consent_file)
    before = [file.read_bytes() for file in files], enabled.records()
    monkeypatch.setenv("ALLY_DAEMON_ID", "f00d.1")
    assert "this command was started by a plugin's process" in enabled.run(*words, code=1).stderr
    assert ([file.read_bytes() for file in files], enabled.records()) == before
    assert enabled.ask("list")["plugins"][0]["state"] == "enabled"

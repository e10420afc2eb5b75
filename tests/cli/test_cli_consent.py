from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.registry import Registry
from ally_plugins.cli.shell.recorder import Recorder, recorder
from ally_plugins.contract.values.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .conftest import Operator

QUESTION = "enable loop-warner? [y/N]"
REASONS = ("to count failures", "to steer the agent", "to stop a loop", "to tell its counts")
GRANTS = ["add_message:user", "events:TOOL_CALL_END", "gate:tool_call:bash", "tools"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.toml")}


# Without a person the answer is no


def test_without_a_person_nothing_is_agreed_to_and_the_way_out_is_named(warner: Operator) -> None:
    result = warner.run("enable", "loop-warner", code=1)
    assert "to steer the agent" in result.stdout
    assert result.stderr.count("\n") == 1
    assert "person" in result.stderr
    assert "ally-plugins enable loop-warner --yes" in result.stderr
    assert files_of(warner.home.path) == {}
    assert warner.records() == []


def test_an_answer_on_standard_input_that_is_no_terminal_counts_for_nothing(warner: Operator) -> None:
    warner.run("enable", "loop-warner", code=1, text="y\n")
    assert warner.ask("list")["plugins"][0]["state"] == "waiting for consent"


@pytest.mark.slow
@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"yesterday\n", b"y y\n", b"\x04", b"y\x04\x04"])
def test_at_a_terminal_everything_but_yes_is_no(warner: Operator, answer: bytes) -> None:
    shown = warner.at_terminal("enable", "loop-warner", until=QUESTION, answer=answer, code=1)
    assert "you did not agree" in shown
    assert files_of(warner.home.path) == {}


@pytest.mark.slow
def test_at_a_terminal_yes_agrees_after_every_request_was_shown(warner: Operator) -> None:
    shown = warner.at_terminal("enable", "loop-warner", until=QUESTION, answer=b"y\n")
    asked = shown.partition(QUESTION)[0]
    assert all(reason in asked for reason in REASONS)
    assert "sandbox: it runs in a sandbox: " in asked
    assert "to run it inside the agent's process instead: ally-plugins place loop-warner inline" in asked
    (record,) = warner.records("enable")
    assert record["data"]["by"] == "person"


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [b"y\n", b"yes\ny\ny\n", b"y"], ids=["line", "lines", "begun"])
def test_a_yes_that_was_typed_before_the_question_is_none(warner: Operator, ahead: bytes) -> None:
    shown = warner.at_terminal("enable", "loop-warner", ahead=ahead, until=QUESTION, answer=b"\n", code=1)
    assert "what was typed before this question is discarded" in shown
    assert "you did not agree" in shown
    assert files_of(warner.home.path) == {}


def test_a_wrong_answer_is_a_no_that_says_what_was_expected(warner: Operator) -> None:
    shown = warner.at_terminal("enable", "loop-warner", until=QUESTION, answer=b"yup\x1b[2J\n", code=1)
    assert "you did not agree; 'yup\\x1b[2J' is no answer, expected [n]o / [y]es" in " ".join(shown.split())
    assert files_of(warner.home.path) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "stream"), [((), "standard output"), (("--json",), "standard error")], ids=["text", "json"]
)
def test_a_question_that_no_terminal_shows_is_not_put(warner: Operator, words: tuple[str, ...], stream: str) -> None:
    keyboard, program = pty.openpty()
    try:
        os.write(keyboard, b"y\n")
        done = subprocess.run(
            [sys.executable, "-m", "ally_plugins", "enable", "loop-warner", *words],
            check=False, env=warner.environment(), stdin=program, capture_output=True, text=True, timeout=60,
            cwd=warner.site,
        )  # fmt: skip
    finally:
        os.close(keyboard)
        os.close(program)
    assert done.returncode == 1
    assert f"consent needs a person, and {stream} is no terminal" in done.stderr
    assert "ally-plugins enable loop-warner --yes" in done.stderr
    assert files_of(warner.home.path) == {}


@pytest.mark.slow
def test_ctrl_c_at_the_question_ends_with_130_and_changes_nothing(warner: Operator) -> None:
    shown = warner.at_terminal("enable", "loop-warner", until=QUESTION, answer=b"\x03", code=130)
    assert "interrupted" in shown
    assert "Traceback" not in shown
    assert files_of(warner.home.path) == {}


# What is shown


def test_yes_agrees_to_what_is_printed_and_records_it(warner: Operator) -> None:
    shown = warner.run("enable", "loop-warner", "--yes").stdout
    assert all(reason in shown for reason in REASONS)
    assert "loop-warner 1.0" in shown
    assert "loop_warner:Plugin" in shown
    (plugin,) = warner.ask("list")["plugins"]
    assert (plugin["state"], plugin["grants"]) == ("enabled", GRANTS)
    (record,) = warner.records("enable")
    assert (record["plugin"], record["data"]["by"], record["data"]["grants"]) == ("loop-warner", "--yes", GRANTS)


def test_a_reason_of_the_greatest_length_is_shown_whole(operator: Operator) -> None:
    reason = "because " * 124
    operator.install(manifest=f'[permissions]\ntools = {{ reason = "{reason}" }}\n')
    assert reason.strip() in operator.run("enable", "loop-warner", code=1).stdout


def test_what_a_distribution_calls_itself_cannot_act_on_the_terminal(operator: Operator) -> None:
    operator.install(version="1.0\x1b[2J\u202egrant\x07")
    for shown in (operator.run("enable", "loop-warner", code=1).stdout, operator.run("list").stdout,
                  operator.run("info", "loop-warner").stdout, operator.run("review").stdout):  # fmt: skip
        assert shown.replace("\n", "").isprintable()
        assert r"\x1b[2J\u202egrant\x07" in shown


def test_only_narrows_and_marks_what_is_withheld(warner: Operator) -> None:
    shown = warner.run("enable", "loop-warner", "--yes", "--only", "tools", "--only", "add_message:user").stdout
    marks = {line.split()[1]: line.split()[0] for line in shown.splitlines() if line.startswith("    ") and ":" in line}
    assert (marks["add_message:user"], marks["gate:tool_call:bash"]) == ("+", "-")
    assert warner.ask("list")["plugins"][0]["grants"] == ["add_message:user", "tools"]


def test_only_cannot_give_what_is_not_asked_for(warner: Operator) -> None:
    error = warner.run("enable", "loop-warner", "--yes", "--only", "add_message:system", code=1).stderr
    assert "does not ask for 'add_message:system'" in error
    assert files_of(warner.home.path) == {}


def test_larger_requests_wait_and_the_difference_is_shown(enabled: Operator) -> None:
    from .conftest import WARNER

    more = WARNER.replace('roles = ["user"]', 'roles = ["user", "system"]').replace(
        "tools = { reason", "tasks = { reason"
    )
    enabled.install(manifest=more, version="2.0.0")
    shown = enabled.run("enable", "loop-warner", code=1).stdout
    assert "version 1.0 is now 2.0.0" in shown
    assert "asks newly for add_message:system" in shown
    assert "asks no more for tools" in shown
    assert enabled.run("review").stdout.count("(new)") == 2
    enabled.run("enable", "loop-warner", "--yes")
    assert "add_message:system" in enabled.ask("list")["plugins"][0]["grants"]


DURABLE = """
after = ["secret-guard"]
before = ["last"]
[events]
subscribe = ["TOOL_CALL_END", "USER_MESSAGE"]
durable = ["USER_MESSAGE"]
"""


def test_what_is_read_from_the_journal_and_where_it_stands_is_shown_before_it_is_agreed_to(operator: Operator) -> None:
    operator.install(manifest=DURABLE)
    for command in (("enable", "loop-warner", "--yes"), ("info", "loop-warner")):
        lines = operator.run(*command).stdout.splitlines()
        shown = {line.split("events:")[1].split()[0]: line for line in lines if " events:" in line}
        assert "sees USER_MESSAGE, and from the journal what it missed" in shown["USER_MESSAGE"]
        assert "missed" not in shown["TOOL_CALL_END"]
        text = "\n".join(lines)
        assert "before last" in text
        assert "after secret-guard" in text
    about = operator.ask("enable", "loop-warner", "--yes")
    assert [each["durable"] for each in about["requests"]] == [False, True]
    assert (about["after"], about["settings"]) == (["secret-guard"], [])
    (record,) = operator.records("enable")
    assert record["data"]["durable"] == ["USER_MESSAGE"]


def test_a_subscription_that_becomes_durable_waits_for_consent_and_the_difference_is_shown(operator: Operator) -> None:
    subscribes = '[events]\nsubscribe = ["TOOL_CALL_END", "USER_MESSAGE"]\n'
    operator.install(manifest=f'{subscribes}durable = ["TOOL_CALL_END"]\n')
    operator.run("enable", "loop-warner", "--yes")
    operator.install(manifest=f'{subscribes}durable = ["TOOL_CALL_END", "USER_MESSAGE"]\n')
    (found,) = operator.ask("list")["plugins"]
    assert found["state"] == "waiting for consent"
    assert "asks for what it missed of USER_MESSAGE too" in found["reason"]
    assert "asks newly for what it missed of USER_MESSAGE" in operator.run("review").stdout
    operator.run("enable", "loop-warner", "--yes")
    assert operator.ask("list")["plugins"][0]["state"] == "enabled"


def test_an_agreement_of_before_durable_subscriptions_were_shown_still_holds(operator: Operator) -> None:
    operator.install(manifest='[events]\nsubscribe = ["USER_MESSAGE"]\ndurable = ["USER_MESSAGE"]\n')
    operator.run("enable", "loop-warner", "--yes")
    file = operator.home.consent_file
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "durable" not in line))
    assert operator.ask("list")["plugins"][0]["state"] == "enabled"
    operator.run("disable", "loop-warner")
    operator.run("enable", "loop-warner", "--yes")
    assert 'durable = ["USER_MESSAGE"]' in file.read_text()


def test_enabling_again_what_is_agreed_to_changes_and_records_nothing(enabled: Operator) -> None:
    before = files_of(enabled.home.path)
    assert "enabled already" in enabled.run("enable", "loop-warner").stdout
    assert files_of(enabled.home.path) == before
    assert len(enabled.records("enable")) == 1


def test_what_was_revoked_is_not_given_back_by_enabling_again(enabled: Operator) -> None:
    enabled.run("revoke", "loop-warner", "gate")
    enabled.run("disable", "loop-warner")
    enabled.run("enable", "loop-warner", "--yes")
    assert "gate:tool_call:bash" not in enabled.ask("list")["plugins"][0]["grants"]


def test_json_says_the_same_and_keeps_the_question_off_stdout(warner: Operator) -> None:
    refused = warner.ask("enable", "loop-warner", code=1)
    assert refused["error"]["type"] == "ConsentError"
    done = warner.ask("enable", "loop-warner", "--yes")
    assert {request["reason"] for request in done["requests"]} == set(REASONS)
    assert (done["state"], done["grants"], done["changed"]) == ("enabled", GRANTS, True)


def test_a_broken_plugin_cannot_be_enabled_and_says_why(operator: Operator) -> None:
    operator.install(manifest="[permisions]\n")
    assert "permisions" in operator.run("enable", "loop-warner", "--yes", code=1).stderr


def test_review_shows_all_that_is_pending_and_changes_nothing(warner: Operator) -> None:
    warner.install("guard", '[permissions]\ntasks = { reason = "to clean up" }\n')
    shown = warner.run("review").stdout
    assert "to clean up" in shown
    assert "to steer the agent" in shown
    assert "ally-plugins enable guard" in shown
    assert [plan["name"] for plan in warner.ask("review")["pending"]] == ["guard", "loop-warner"]
    assert files_of(warner.home.path) == {}


def test_review_says_so_when_nothing_waits(enabled: Operator) -> None:
    nothing, *offers = enabled.run("review").stdout.splitlines()
    assert nothing == "nothing waits for you"
    assert [line for line in offers if not line.startswith("outside of a sandbox: loop-warner;")] == []


# No audit, no change


def test_a_journal_that_cannot_be_opened_refuses_before_anything_changes(warner: Operator) -> None:
    warner.home.journal_file.write_text("this is no journal, and is long enough to have a first page" * 100)
    error = warner.run("enable", "loop-warner", "--yes", code=3).stderr
    assert "nothing was changed" in error
    assert files_of(warner.home.path) == {}


def test_a_change_that_cannot_be_recorded_is_undone(enabled: Operator) -> None:
    before = files_of(enabled.home.path)
    registry = Registry(enabled.home)
    with recorder(registry) as writing:
        writing.journal.close_blocking()
        with pytest.raises(JournalError, match="nothing was changed"):
            writing.change(lambda it: it.revoke("loop-warner", "tools"))
    assert files_of(enabled.home.path) == before


def test_a_first_consent_that_cannot_be_recorded_leaves_no_file(warner: Operator) -> None:
    registry = Registry(warner.home)
    plan = registry.plan("loop-warner")
    with recorder(registry) as writing:
        writing.journal.close_blocking()
        with pytest.raises(JournalError):
            writing.change(lambda it: it.enable(plan))
    assert files_of(warner.home.path) == {}


def test_what_another_command_wrote_meanwhile_is_not_undone_with_it(enabled: Operator) -> None:
    class Late(Recorder):
        def note(self, kind: str, plugin: str | None, data: Mapping[str, Any]) -> int:
            Registry(enabled.home).revoke("loop-warner", "add_message")
            return super().note(kind, plugin, data)

    registry = Registry(enabled.home)
    with recorder(registry) as writing:
        writing.journal.close_blocking()
        with pytest.raises(JournalError, match="could not be recorded or undone"):
            Late(registry, writing.journal).change(lambda it: it.revoke("loop-warner", "tools"))
    assert registry.get("loop-warner").granted.texts() == ("events:TOOL_CALL_END", "gate:tool_call:bash")


@pytest.mark.slow
def test_another_command_waits_until_a_change_is_recorded_or_undone(enabled: Operator) -> None:
    other = threading.Thread(target=lambda: Registry(enabled.home).revoke("loop-warner", "add_message"))

    class Slow(Recorder):
        def note(self, kind: str, plugin: str | None, data: Mapping[str, Any]) -> int:
            other.start()
            other.join(0.3)  # it would be done in a tenth of it, were it not for the lock
            assert other.is_alive()
            return super().note(kind, plugin, data)

    registry = Registry(enabled.home)
    with recorder(registry) as writing:
        writing.journal.close_blocking()
        with pytest.raises(JournalError, match="nothing was changed"):
            Slow(registry, writing.journal).change(lambda it: it.revoke("loop-warner", "tools"))
    other.join()
    assert registry.get("loop-warner").granted.texts() == ("events:TOOL_CALL_END", "gate:tool_call:bash", "tools")


# review, plugin by plugin

ASKED = "[a]ccept / [n]arrow / [s]kip / [q]uit"


@pytest.mark.slow
def test_review_asks_after_each_plugin_and_accept_agrees_to_all_that_was_shown(warner: Operator) -> None:
    shown = warner.at_terminal("review", "loop-warner", until=ASKED, answer=b"a\n")
    assert "to stop a loop" in shown
    assert "loop-warner is enabled" in shown
    assert "gate:tool_call:bash" in warner.ask("info", "loop-warner")["grants"]


@pytest.mark.slow
def test_review_narrows_grant_by_grant_and_whatever_is_no_answer_leaves_it_as_it_is(warner: Operator) -> None:
    requested = warner.ask("review")["pending"][0]["grants"]
    answers = [(f"{each}?", b"y\n" if each.startswith("gate") else b"\n") for each in requested]
    final = ("[a]ccept / [s]kip", b"maybe\n")
    shown = warner.at_terminal("review", "loop-warner", until=ASKED, answer=b"narrow\n", then=[*answers, final])
    assert "'maybe' is no answer" in shown
    assert "loop-warner stays as it is" in shown
    assert warner.ask("info", "loop-warner")["state"] == "waiting for consent"
    warner.at_terminal(
        "review", "loop-warner", until=ASKED, answer=b"n\n", then=[*answers, ("[a]ccept / [s]kip", b"a\n")]
    )
    assert warner.ask("info", "loop-warner")["grants"] == ["gate:tool_call:bash"]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [b"yes\n", b"\x04"])
def test_review_enables_nothing_for_any_other_answer(warner: Operator, answer: bytes) -> None:
    warner.at_terminal("review", "loop-warner", until=ASKED, answer=answer)
    assert warner.ask("info", "loop-warner")["state"] == "waiting for consent"


def test_many_new_plugins_stand_in_one_line_of_the_list(warner: Operator) -> None:
    assert warner.run("list").stdout.count("waiting for consent") == 1
    for number in range(3):
        warner.install(f"other-{number}")
    shown = warner.run("list").stdout
    assert shown == (
        "4 are new, and do nothing until you agree: loop-warner, other-0, other-1, other-2; to look at them: "
        "ally-plugins review\n"
    )
    assert warner.run("list", "--all").stdout.count("waiting for consent") == 4
    assert len(warner.ask("list")["plugins"]) == 4
    warner.run("enable", "loop-warner", "--yes")
    shown = warner.run("list").stdout
    assert shown.splitlines()[0].split() == ["plugin", "state", "placement", "from", "about"]
    assert shown.splitlines()[1].startswith("loop-warner")


# Several at once

GUARD = '[permissions]\ngate = { on = ["tool_call"], reason = "to stop what harms" }\n'


def test_several_are_all_shown_before_one_question_and_enabled_together(warner: Operator) -> None:
    warner.install("guard", GUARD)
    answer = warner.ask("enable", "guard", "loop-warner", "--place", "inline", "--yes")
    assert [(each["name"], each["state"], each["changed"]) for each in answer["plugins"]] == [
        ("guard", "enabled", True),
        ("loop-warner", "enabled", True),
    ]
    assert [record["plugin"] for record in warner.records("enable")] == ["guard", "loop-warner"]


def test_without_a_yes_none_of_several_is_enabled_and_each_was_shown(warner: Operator) -> None:
    warner.install("guard", GUARD)
    result = warner.run("enable", "guard", "loop-warner", code=1)
    assert "to stop what harms" in result.stdout
    assert "to steer the agent" in result.stdout
    assert "to agree to exactly what is shown: ally-plugins enable guard loop-warner --yes" in result.stderr
    assert files_of(warner.home.path) == {}


@pytest.mark.parametrize("wrong", [("no-such",), ("loop-warner", "folder:loop-warner")])
def test_where_one_of_several_cannot_be_enabled_none_is(warner: Operator, wrong: tuple[str, ...]) -> None:
    warner.install("guard", GUARD)
    warner.run("enable", "guard", *wrong, "--yes", code=2)
    assert files_of(warner.home.path) == {}


def test_of_several_those_that_are_enabled_already_are_left_as_they_are(enabled: Operator) -> None:
    enabled.install("guard", GUARD)
    answer = enabled.ask("enable", "loop-warner", "guard", "guard", "--place", "inline", "--yes")
    assert [each["name"] for each in answer["plugins"]] == ["loop-warner", "guard"]
    again = enabled.ask("enable", "loop-warner", "guard", "--yes")
    assert [each["changed"] for each in again["plugins"]] == [False, False]


def test_grants_are_narrowed_of_one_plugin_at_a_time(warner: Operator) -> None:
    warner.install("guard", GUARD)
    refused = warner.run("enable", "guard", "loop-warner", "--only", "tools", "--yes", code=2)
    assert "--only is for one plugin" in refused.stderr
    assert files_of(warner.home.path) == {}

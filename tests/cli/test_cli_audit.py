from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py_ocsf_models.events.findings.detection_finding import DetectionFinding

from ally_plugins import Ally, Ask, Deny, Host, RefusedError, ToolCall, ToolCallStart, UserMessage, hookimpl
from ally_plugins.cli.look import audit
from ally_plugins.cli.look.explain import why
from ally_plugins.cli.shell.journal_rows import KINDS, parties, summary
from ally_plugins.cli.shell.times import parse_since
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.journal.chain import Head
from ally_plugins.journal.explanation import Explanation
from ally_plugins.journal.export import export
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import Record, StoredRecord
from tests.kit.hosts import setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

NOW = 1_700_000_000_000


@pytest.fixture
def spoken(enabled: Operator) -> Operator:
    """Return an operator whose loop-warner has added one message, and has lost its gate afterwards."""
    enabled.run("call", "loop-warner", "shout", "--args", '{"text": "hi"}')
    enabled.run("revoke", "loop-warner", "gate")
    return enabled


def message_of(operator: Operator) -> dict[str, Any]:
    (record,) = operator.records("message")
    return record


# audit


@pytest.mark.parametrize("more", [(), ("--json",), ("--follow",)])
def test_a_kind_that_there_is_not_is_an_error_with_the_nearest_one(operator: Operator, more: tuple[str, ...]) -> None:
    assert (
        "no kind of record 'refusl', did you mean 'refusal'?"
        in operator.run("audit", "--kind", "refusl", *more, code=2).stderr
    )
    assert (
        "expected one of action, "
        in operator.run("audit", "--kind", "message", "--kind", "x\x1b", *more, code=2).stderr
    )


def test_a_kind_that_a_newer_version_has_written_is_shown_and_every_kind_of_ours_is_known(spoken: Operator) -> None:
    journal = Journal.open(spoken.home.journal_file, head=spoken.home.audit_head_file)
    journal.append_blocking(Record("weather", NOW, None, data={"sun": True}))
    journal.close_blocking()
    assert "sun" in spoken.run("audit", "--kind", "weather").stdout
    assert {record["kind"] for record in spoken.records()} <= KINDS | {"weather"}


def test_that_nothing_passes_the_filters_is_said_beside_the_output(spoken: Operator) -> None:
    shown = spoken.run("audit", "--plugin", "nobody")
    assert (shown.stdout, shown.stderr.count("\n")) == ("", 1)
    assert spoken.run("audit", "--plugin", "nobody", "--json").stdout == ""


def test_nothing_recorded_is_no_error(operator: Operator) -> None:
    assert "nothing is recorded yet" in operator.run("audit").stdout
    assert operator.run("audit", "--json").stdout == ""
    assert operator.ask("audit", "verify") == {"ok": True, "records": 0, "pruned": 0, "lag": 0, "problem": None}


def test_each_record_is_a_line_and_with_json_an_object(spoken: Operator) -> None:
    lines = spoken.run("audit").stdout.splitlines()
    records = spoken.records()
    assert len(lines) == len(records)
    assert [line.split()[0] for line in lines] == [str(record["n"]) for record in records]
    assert {record["kind"] for record in records} > {"enable", "registration", "tool_call", "message", "revoke"}


def test_filters_narrow_what_is_shown(spoken: Operator) -> None:
    session = message_of(spoken)["session_id"]
    assert {r["kind"] for r in spoken.records("enable", "revoke")} == {"enable", "revoke"}
    by_session = [json.loads(line) for line in spoken.run("audit", "--session", session, "--json").stdout.splitlines()]
    assert {record["session_id"] for record in by_session} == {session}
    assert spoken.run("audit", "--plugin", "nobody").stdout == ""
    assert len(spoken.run("audit", "--limit", "2").stdout.splitlines()) == 2
    assert spoken.run("audit", "--since", "1h").stdout == spoken.run("audit", "--limit", "0").stdout
    assert spoken.run("audit", "--since", "2099-01-01").stdout == ""


def test_since_takes_an_age_or_a_time() -> None:
    assert parse_since("10m", NOW) == NOW - 600_000
    assert parse_since("3d", NOW) == NOW - 3 * 86_400_000
    assert parse_since("2023-11-14T22:13:20+00:00", 0) == NOW


@pytest.mark.parametrize("text", ["", "soon", "10", "-5m", "5 m", "99999999999d", "2023-13-01"])
def test_a_time_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a time"):
        parse_since(text, NOW)


@pytest.mark.parametrize("is_there", [True, False])
def test_follow_shows_what_is_written_meanwhile_and_ends_with_130(warner: Operator, is_there: bool) -> None:  # noqa: FBT001
    if is_there:
        warner.run("enable", "loop-warner", "--yes")
    command = [sys.executable, "-m", "ally_plugins", "audit", "--follow", "--json"]
    env = warner.environment(PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not is_there:
                warner.run("enable", "loop-warner", "--yes")
            assert json.loads(process.stdout.readline())["kind"] == "enable"
            warner.run("disable", "loop-warner")
            assert json.loads(process.stdout.readline())["kind"] == "disable"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=4), st.text())
def test_a_record_of_any_content_is_one_inert_line(data: dict[str, Any], ref: str) -> None:
    kinds = ("message", "decision", "enable", "setting", "shadow", "transform", "refusal", "pruned", "install", "who")
    for kind in kinds:
        line = summary(StoredRecord(1, 2, kind, "p", None, ref, None, data, ""))
        assert line.isprintable()


# info


def test_what_went_wrong_is_shown_however_often_the_plugin_was_started_since(enabled: Operator) -> None:
    async def main() -> None:
        journal = Journal.open(enabled.home.journal_file)
        for state in ("failed", *["running", "stopped"] * 10):
            await journal.append(Record("plugin_state", NOW, "loop-warner", None, None, {"state": state}))
        await journal.close()

    asyncio.run(main())
    (trouble,) = enabled.ask("info", "loop-warner")["trouble"]
    assert trouble["data"]["state"] == "failed"


# audit verify


def test_the_chain_is_verified(spoken: Operator) -> None:
    assert "the audit holds" in spoken.run("audit", "verify").stdout
    assert spoken.ask("audit", "verify")["ok"] is True


def test_one_changed_byte_is_found_and_the_record_named(spoken: Operator) -> None:
    file = spoken.home.journal_file
    content = file.read_bytes()
    assert content.count(b"heard hi") >= 1
    file.write_bytes(content.replace(b"heard hi", b"heard ho"))
    record = message_of(spoken)["n"]
    assert f"record {record} was altered" in spoken.run("audit", "verify", code=1).stdout
    problem = spoken.ask("audit", "verify", code=1)["problem"]
    assert (problem["kind"], problem["record"]) == ("altered", record)


def test_a_journal_that_is_gone_is_found_by_its_head(spoken: Operator) -> None:
    for file in spoken.home.path.glob("journal.db*"):
        file.unlink()
    assert "is gone" in spoken.run("audit", "verify", code=1).stdout


def test_a_copy_of_the_head_that_was_kept_elsewhere_is_compared_with(spoken: Operator, tmp_path: Path) -> None:
    copy = tmp_path / "kept.head"
    shutil.copyfile(spoken.home.audit_head_file, copy)
    journal = Journal.open(spoken.home.journal_file)
    journal.append_blocking(Record("x", 1))
    journal.close_blocking()
    link = tmp_path / "link"
    link.symlink_to(copy)
    for name in (copy, link):
        shown = spoken.run("audit", "verify", "--head", str(name)).stdout
        assert "the audit holds" in shown
        assert f"it agrees with {name} up to record" in shown
    assert "the audit holds" in spoken.run("audit", "verify", "--head", "-", text=copy.read_text()).stdout


@pytest.mark.slow
def test_a_chain_that_was_written_anew_with_its_head_is_found_by_a_copy_of_the_head(
    spoken: Operator, tmp_path: Path
) -> None:
    copy = tmp_path / "kept.head"
    shutil.copyfile(spoken.home.audit_head_file, copy)
    with closing(sqlite3.connect(spoken.home.journal_file)) as db, db:
        (chain,) = db.execute("SELECT value FROM meta WHERE name = 'chain'").fetchone()
        db.execute("DELETE FROM records WHERE n > 1")  # and all that followed, hashes and head, could be forged as well
        (hash_,) = db.execute("SELECT hash FROM records WHERE n = 1").fetchone()
    spoken.home.audit_head_file.write_text(Head(1, hash_, chain).to_text())
    assert "the audit holds" in spoken.run("audit", "verify").stdout
    shown = spoken.run("audit", "verify", "--head", str(copy), code=1).stdout
    assert "the journal was cut: it ends at record 1, and the copy of audit.head has seen" in shown
    journal = Journal.open(spoken.home.journal_file)
    for number in range(200):
        journal.append_blocking(Record("x", number))
    journal.close_blocking()
    problem = spoken.ask("audit", "verify", "--head", str(copy), code=1)["problem"]
    assert problem["kind"] == "replaced"
    for file in spoken.home.path.glob("journal.db*"):
        file.unlink()
    spoken.home.audit_head_file.unlink()
    assert "the copy of audit.head says that" in spoken.run("audit", "verify", "--head", str(copy), code=1).stdout


def test_what_is_no_copy_of_the_head_is_a_usage_error_at_once(spoken: Operator, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    (tmp_path / "text").write_text("hello\x1b[2J")
    (tmp_path / "cut").write_text(spoken.home.audit_head_file.read_text()[:-9])
    for name in ("pipe", "large", "text", "cut", "none", "."):
        error = spoken.run("audit", "verify", "--head", str(tmp_path / name), code=2).stderr
        assert name in error
        assert "\x1b" not in error
    assert "is no copy of audit.head" in spoken.run("audit", "verify", "--head", "-", text="", code=2).stderr


def test_a_file_that_is_no_journal_is_a_problem_in_words(spoken: Operator) -> None:
    for file in spoken.home.path.glob("journal.db*"):
        file.unlink()
    spoken.home.journal_file.write_bytes(b"x" * 8192)
    assert "is not a journal" in spoken.run("audit", "verify", code=1).stdout
    assert "is not a journal" in spoken.run("audit", code=3).stderr


def test_a_row_says_who_did_what_to_whom(spoken: Operator) -> None:
    rows = [line.split()[3:6] for line in spoken.run("audit").stdout.splitlines()]
    assert ["operator", "enable", "loop-warner"] in rows
    assert ["operator", "revoke", "loop-warner"] in rows
    assert ["loop-warner", "message", message_of(spoken)["session_id"]] in rows


@pytest.mark.parametrize(
    ("kind", "plugin", "data", "expected"),
    [
        ("decision", None, {"decided_by": ["guard", "other"], "subject": "bash"}, ("guard, other", "bash")),
        ("decision", None, {"decided_by": [], "subject": "ba\x1bsh"}, ("host", "ba\\x1bsh")),
        ("decision", None, None, ("host", "-")),
        ("refusal", "guard", {}, ("host", "guard")),
        ("answer", "guard", {}, ("person", "guard")),
        ("enable", "guard", {"by": "code"}, ("host author", "guard")),
        ("transform", None, {"changes": [{"plugin": "tidy"}, 7]}, ("tidy", "s")),
    ],
)
def test_whose_doing_a_record_is(
    kind: str, plugin: str | None, data: dict[str, Any] | None, expected: tuple[str, str]
) -> None:
    assert parties(StoredRecord(1, NOW, kind, plugin, "s", None, None, data, "")) == expected


def test_what_replays_have_recorded_can_be_had_apart(operator: Operator) -> None:
    operator.home.prepare()
    journal = Journal.open(operator.home.journal_file)
    for number, more in enumerate(({}, {"recorded_at": NOW})):
        journal.append_blocking(Record("crash", NOW, "guard", "s", f"r{number}", {"hook": "x", "error": "y", **more}))
    journal.close_blocking()
    assert [each["id"] for each in operator.records("crash")] == ["r0", "r1"]
    for option, expected in (("--replays", ["r1"]), ("--no-replays", ["r0"])):
        lines = operator.run("audit", option, "--json", "--kind", "crash").stdout.splitlines()
        assert [json.loads(line)["id"] for line in lines] == expected


def test_audit_verify_shows_how_far_it_is_at_a_terminal_and_nowhere_else(
    spoken: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_MANY", 1)
    assert "records" not in spoken.run("audit", "verify").stderr
    monkeypatch.setattr(audit, "is_terminal", lambda _: True)
    monkeypatch.setattr("click._termui_impl.isatty", lambda _: True)
    done = spoken.run("audit", "verify")
    assert "100%" in done.stderr
    assert "the audit holds" in done.stdout
    assert spoken.run("audit", "verify", "--json").stderr == ""


# explain, export, prune


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"verdict": "allow"}, "allowed, since 1 gate had nothing against it."),
        ({"verdict": "allow", "decided_by": ["guard"]}, "allowed, since guard said so."),
        ({"verdict": "deny", "decided_by": ["guard"], "reason": "it failed",
          "votes": [{"plugin": "guard", "verdict": "deny", "cause": "crash"}]},
         "denied by guard, since guard gave no answer (crash): it failed."),
        ({"verdict": "deny", "reason": "cannot be shown"}, "denied by the host: cannot be shown."),
        ({"verdict": "ask", "decided_by": ["guard"], "reason": "sure?"}, "put to the person by guard: sure?."),
        ({"verdict": "allow", "votes": [{"plugin": "guard", "verdict": "deny", "shadow": True}]},
         "allowed, since 1 gate had nothing against it; 1 that only watch would have denied it."),
    ],
)  # fmt: skip
def test_an_explanation_begins_with_one_sentence_of_why(more: dict[str, Any], sentence: str) -> None:
    data = {"kind": "tool_call", "subject": "bash", "votes": [{"plugin": "guard", "verdict": "abstain"}], **more}
    record = StoredRecord(1, NOW, "decision", None, "s", "d-1", None, data, "")
    assert why(Explanation("d-1", None, record, None, (), (), ())) == f"tool_call of bash was {sentence}"


def test_a_message_is_explained_in_a_sentence_too(spoken: Operator) -> None:
    message = message_of(spoken)
    said = spoken.ask("explain", message["id"])["why"]
    assert said == "loop-warner added this message, which add_message:user allows; it was delivered."
    assert spoken.run("explain", message["id"]).stdout.splitlines()[0] == said


def test_a_message_is_explained_with_text_permission_and_consent(spoken: Operator) -> None:
    message = message_of(spoken)
    shown = spoken.run("explain", message["id"]).stdout
    assert "| heard hi" in shown
    assert "used: add_message:user" in shown
    assert "agreed by --yes to loop-warner 1.0" in shown
    assert "delivered" in shown
    assert "revoke" not in shown
    told = spoken.ask("explain", message["id"])
    assert (told["origin"], told["message"]["state"]) == (["loop-warner"], "delivered")
    assert [record["kind"] for record in told["permissions"]] == ["enable"]


def test_an_event_is_explained_by_its_number(spoken: Operator) -> None:
    session = message_of(spoken)["session_id"]
    assert "SESSION_START" in spoken.run("explain", f"{session}:1").stdout


def test_a_decision_is_explained_with_votes_reasons_and_the_events_of_the_call(operator: Operator) -> None:
    operator.home.prepare()
    journal = Journal.open(operator.home.journal_file)
    call = b'{"event_type":"TOOL_CALL_START","event_data":{"toolName":"bash"},"id":"s:1","call_id":"c1"}'
    journal.add_events([("s", 1, NOW, "TOOL_CALL_START", None, call)])
    guard = {"plugin": "guard", "verdict": "deny", "reason": "no \x1b[31mred", "cause": "verdict", "elapsed_ms": 1.5}
    slow = {"plugin": "slow", "verdict": "deny", "reason": "", "cause": "timeout", "detail": "15 s", "shadow": True}
    data = {"kind": "tool_call", "subject": "bash", "verdict": "deny", "reason": "no red", "decided_by": ["guard"],
            "origin": ["a", "b"], "cause": "c1", "votes": [guard, slow]}  # fmt: skip
    journal.append_blocking(Record("decision", NOW, None, "s", "d-1", data))
    journal.close_blocking()
    shown = operator.run("explain", "d-1").stdout
    assert shown.replace("\n", "").isprintable()
    for text in ("deny by guard: no red", "guard  deny  1.5 ms  no \\x1b[31mred", "[timeout] 15 s (shadow", "a > b"):
        assert text in shown
    assert "TOOL_CALL_START" in shown
    assert shown.splitlines()[0] == "tool_call of bash was denied by guard: no red."
    assert [event["id"] for event in operator.ask("explain", "d-1")["causes"]] == ["s:1"]


@pytest.mark.parametrize("id_", ["m-none", "s:1", "", "x" * 5000, "s:99999999999999999999", "\x1b[31m"])
def test_an_id_that_nobody_has_is_one_line(spoken: Operator, id_: str) -> None:
    error = spoken.run("explain", id_, code=1).stderr
    assert error.count("\n") == 1
    assert error.strip().isprintable()


@pytest.mark.slow
def test_export_writes_what_the_journal_has(spoken: Operator) -> None:
    session = message_of(spoken)["session_id"]
    out = spoken.site / "out.jsonl"
    done = spoken.ask("export", session, "--out", str(out))
    with JournalReader(spoken.home.journal_file) as reading:
        assert out.read_bytes() == b"".join(export(reading, session))
    assert done["lines"] == len(out.read_bytes().splitlines())
    assert out.stat().st_mode & 0o077 == 0
    assert spoken.process("export", session).stdout.encode() == out.read_bytes()


class Speaks:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_user_message(self) -> None:
        await self.ally.add_message("user", "\u202e\u2028\u4e2d")


def test_an_export_shows_everything_that_strangers_wrote_as_escapes(operator: Operator) -> None:
    hostile = "\x9b31m\u202e\u2028\x7f\x1b]0;x\x07\U000e0041\u4e2d"

    async def main() -> None:
        async with Host("t", home=operator.home.path, discover=False, plugins={"p": Speaks}) as host:
            session = host.session("s\u4e2d")
            session.emit(ToolCallStart(tool_name=hostile, arguments={hostile: hostile}, call_id="c"))
            session.emit(UserMessage(content=hostile))
            await session.drained()

    asyncio.run(main())
    out = operator.site / "out.jsonl"
    operator.run("export", "s\u4e2d", "--out", str(out))
    shown = operator.process("export", "s\u4e2d").stdout
    assert shown.isascii()
    assert shown.replace("\n", "").isprintable()
    assert shown == out.read_text("ascii")
    lines = [json.loads(line) for line in shown.splitlines()]
    (call,) = [line["event_data"] for line in lines if line.get("event_type") == "TOOL_CALL_START"]
    assert call["arguments"] == {hostile: hostile}
    (said,) = [line["body"]["content"] for line in lines if line.get("kind") == "message"]
    assert said == "\u202e\u2028\u4e2d"


def test_export_of_an_unknown_session_names_those_there_are_and_writes_nothing(spoken: Operator) -> None:
    out = spoken.site / "out.jsonl"
    error = spoken.run("export", "s-none", "--out", str(out), code=1).stderr
    assert message_of(spoken)["session_id"] in error
    assert not out.exists()


def test_prune_asks_first_removes_content_and_keeps_the_chain(spoken: Operator) -> None:
    assert "--yes" in spoken.run("prune", "--older-than", "0s", code=1).stderr
    assert message_of(spoken)["data"] is not None
    assert spoken.ask("prune", "--older-than", "1d", "--yes")["pruned"] == 0
    assert spoken.ask("prune", "--older-than", "0s", "--yes")["pruned"] > 5
    assert message_of(spoken)["data"] is None
    assert spoken.ask("audit", "verify")["ok"] is True
    assert "pruned" in spoken.run("explain", message_of(spoken)["id"]).stdout
    assert "future" in spoken.run("prune", "--older-than", "2099-01-01", code=2).stderr


# as findings of a schema that others collect


def test_decisions_and_refusals_are_findings_that_the_schemas_own_models_read(operator: Operator) -> None:
    class Guard:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @hookimpl
        async def ally_gate_tool_call(self, call: ToolCall) -> Deny | Ask | None:
            with suppress(RefusedError):
                await self.ally.add_message("user", "nobody lets me")
            if call.tool_name == "rm":
                return Deny("no rm")
            return Ask("sure?") if call.tool_name == "sudo" else None

    async def main() -> None:
        plugin = setup(Guard, ["gate:tool_call"]).under("guard")
        async with Host("ally-plugins", home=operator.home.path, discover=False, plugins={"guard": plugin}) as host:
            for name in ("ls", "rm", "sudo"):
                await host.session("s1").gate_tool_call(ToolCall(name, {"path": "x"}))

    go(main())
    lines = operator.run("audit", "--format", "ocsf", "--limit", "0").stdout.splitlines()
    findings = [DetectionFinding.model_validate_json(line) for line in lines]
    decided = [each.message for each in findings if each.finding_info.types == ["decision"]]
    assert decided[:2] == ["tool_call of ls: allow", "tool_call of rm: deny, guard: no rm"]
    assert decided[2].startswith("tool_call of sudo: deny, guard: sure?")  # there is no person
    raw = [json.loads(line) for line in lines]
    assert {each["disposition_id"] for each in raw} >= {1, 2}
    assert len([each for each in raw if each["unmapped"]["kind"] == "refusal"]) == 1  # one record for all
    assert len({each["metadata"]["uid"] for each in raw}) == len(raw)
    named = [json.loads(line) for line in operator.run("audit", "--plugin", "guard", "--json").stdout.splitlines()]
    assert [each["kind"] for each in named].count("decision") == 3
    assert operator.run("audit", "--plugin", "gua", "--json").stdout == ""
    error = operator.run("audit", "--format", "ocsf", "--kind", "crash", code=2).stderr
    assert "--format ocsf is for decision and refusal, and not for crash" in error

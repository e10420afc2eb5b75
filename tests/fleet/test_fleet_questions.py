"""`explain`, `stats` and `audit` with `--fleet`: what each home's journal would answer, from all homes' records."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from py_ocsf_models.events.findings.detection_finding import DetectionFinding

from ally_plugins import Deny, Host, Replace, ToolCall, ToolCallEnd, ToolResult, evolve, hookimpl
from ally_plugins.cli.look.ocsf import finding
from ally_plugins.cli.look.otlp import requests
from ally_plugins.fleet.store import open_store
from ally_plugins.journal.chain import Head, encode_block
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import ChainedRecord, Record, StoredRecord
from tests.kit.commands import run_command
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

HOMES = ("build-1", "laptop")


class Busy:
    """Denies, changes what came out, and speaks when a call has ended."""

    def __init__(self, ally: Any) -> None:
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        return Deny("no") if "rm" in str(call.arguments) else None

    @hookimpl
    async def ally_transform_tool_output(self, call: ToolCall, result: ToolResult) -> Replace[ToolResult]:
        del call
        return Replace(evolve(result, output="tidy"))

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        await self.ally.add_message("user", f"{event.tool_name} has ended")


async def work(home: Path, commands: tuple[str, ...]) -> None:
    async with Host("ally-plugins", home=home, discover=False, plugins={"busy": Busy}) as host:
        session = host.session()
        for number, command in enumerate(commands):
            call = ToolCall("bash", {"command": command}, f"call-{number}")
            await session.gate_tool_call(call)
            await session.transform_tool_output(call, ToolResult(success=True, output="untidy"))
            session.emit(ToolCallEnd(tool_name="bash", call_id=call.call_id))
            await session.drained()
        await session.safe_point("step")
        session.emit(ToolCallEnd(tool_name="last"))
        await session.drained()


def keep(place: Path, name: str, journal: Path, *, contents: bool = True) -> None:
    """Keep a home's journal as a collector does."""
    with JournalReader(journal) as reading, open_store(str(place), create=True) as store:
        records = reading.chained(0, 2**40)
        kept = [each if contents else each._replace(content=None) for each in records]
        store.add(name, reading.head(), kept, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two homes that did much the same, and the records of both."""
    folder = tmp_path_factory.mktemp("homes")
    for name, commands in zip(HOMES, (("ls", "rm"), ("ls",)), strict=True):
        go(work(folder / name, commands))
        keep(folder / "fleet.db", name, folder / name / "journal.db")
    return folder


@pytest.fixture
def fleet(made: Path, tmp_path: Path) -> Path:
    """Return the records of two homes, which lie beside them."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "fleet.db"


def answer(*args: str, code: int = 0) -> Any:
    result = run_command(*args, "--json", code=code)
    return json.loads(result.stdout) if code == 0 else result.stderr


def ids_of(home: Path) -> list[str]:
    """Return all that `explain` takes: of messages, decisions, changes, events."""
    rows = [json.loads(line) for line in run_command("audit", "--home", str(home), "--json").stdout.splitlines()]
    with JournalReader(home / "journal.db") as reading:
        events = [event.id for session in reading.sessions() for event in reading.events(session.id)]
    return [*{row["id"] for row in rows if row["id"]}, *events]


@pytest.mark.slow
def test_what_led_to_anything_is_told_of_a_fleet_as_at_the_home_itself(fleet: Path, tmp_path: Path) -> None:
    kinds = set()
    for name in HOMES:
        ids = ids_of(tmp_path / name)
        assert len(ids) > 5
        for id_ in ids:
            there = answer("explain", id_, "--home", str(tmp_path / name))
            here = answer("explain", id_, "--fleet", str(fleet), "--fleet-home", name)
            assert here == {"home": name, **there}
            kinds |= {key for key in ("message", "event") if here[key]} | {(here["record"] or {}).get("kind")}
    assert {"message", "event", "decision", "transform"} <= kinds


def test_one_home_needs_no_name_and_is_named(fleet: Path, tmp_path: Path) -> None:
    [decision] = [row["id"] for row in rows(fleet, "--kind", "decision", "--fleet-home", "laptop")]
    assert answer("explain", decision, "--fleet", str(fleet))["home"] == "laptop"
    lines = run_command("explain", decision, "--fleet", str(fleet)).stdout.splitlines()
    there = run_command("explain", decision, "--home", str(tmp_path / "laptop")).stdout.splitlines()
    assert lines == [f"at laptop: {there[0]}", *there[1:]]


def rows(fleet: Path, *args: str) -> list[dict[str, Any]]:
    shown = run_command("audit", "--fleet", str(fleet), *args, "--json").stdout
    return [json.loads(line) for line in shown.splitlines()]


def test_an_id_that_several_homes_have_is_asked_about(fleet: Path) -> None:
    error = answer("explain", "call-0", "--fleet", str(fleet), code=2)
    assert "2 homes have 'call-0': build-1, laptop; say which is meant with --fleet-home" in error
    assert answer("explain", "call-0", "--fleet", str(fleet), "--fleet-home", "laptop")["home"] == "laptop"
    assert answer("explain", "call-1", "--fleet", str(fleet))["home"] == "build-1"  # the other has done one call


@pytest.mark.parametrize("id_", ["m-none", "s-none:1", "", ":", f"s:{'9' * 5000}", "s:0"])
def test_an_id_that_nobody_has_is_said_so(fleet: Path, id_: str) -> None:
    assert "no home of the fleet has sent anything of" in answer("explain", id_, "--fleet", str(fleet), code=1)
    error = answer("explain", id_, "--fleet", str(fleet), "--fleet-home", "laptop", code=1)
    assert "the home 'laptop' has sent nothing of" in error


def test_of_a_journal_that_was_begun_anew_the_later_one_counts(fleet: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        with_id = Journal.open(tmp_path / f"anew-{number}" / "journal.db")
        with_id.append_blocking(Record("decision", number, ref="d-1", data={"verdict": "deny", "subject": number}))
        with_id.close_blocking()
    for number in (2, 1):
        keep(fleet, "laptop", tmp_path / f"anew-{number}" / "journal.db")
    assert answer("explain", "d-1", "--fleet", str(fleet))["record"]["data"]["subject"] == 2


def test_what_plugins_cost_is_the_sum_over_all_homes(fleet: Path, tmp_path: Path) -> None:
    each = {name: answer("stats", "--home", str(tmp_path / name))["plugins"] for name in HOMES}
    for name in HOMES:
        assert answer("stats", "--fleet", str(fleet), "--fleet-home", name)["plugins"] == each[name]
    found = answer("stats", "--fleet", str(fleet))
    [busy] = found["plugins"]
    assert found["without_content"] == {}
    assert busy["messages"] == sum(plugins[0]["messages"] for plugins in each.values()) == 5
    assert busy["tokens"] == sum(plugins[0]["tokens"] for plugins in each.values()) > 0
    gate = next(hook for hook in busy["hooks"] if hook["hook"] == "ally_gate_tool_call")
    assert (gate["calls"], gate["denied"]) == (3, 1)
    refused = answer("stats", "other", "--fleet", str(fleet), code=1)
    assert "no home of the fleet has sent anything of a plugin 'other'" in refused
    later = ("stats", "busy", "--fleet", str(fleet), "--since", "2099-01-01T00:00")
    assert answer(*later)["plugins"] == []
    assert "nothing is recorded of busy" in run_command(*later).stdout
    shown = run_command("stats", "busy", "--fleet", str(fleet)).stdout
    assert "ally_gate_tool_call" in shown
    assert answer("stats", "--fleet", str(fleet), "--since", "2099-01-01T00:00")["plugins"] == []


def test_a_home_that_keeps_its_contents_is_named_and_nothing_is_made_up_of_it(fleet: Path, tmp_path: Path) -> None:
    keep(fleet, "secretive", tmp_path / "laptop" / "journal.db", contents=False)
    found = answer("stats", "--fleet", str(fleet))
    assert list(found["without_content"]) == ["secretive"]
    assert found["plugins"][0]["messages"] == 5
    error = run_command("stats", "--fleet", str(fleet)).stderr
    assert "not counted: the records of secretive" in error
    for id_ in ids_of(tmp_path / "laptop"):
        refused = answer("explain", id_, "--fleet", str(fleet), "--fleet-home", "secretive", code=1)
        assert f"'secretive' has sent {id_!r} without its content" in refused


def test_a_kind_that_there_is_none_of_is_refused_and_one_of_another_version_is_not(fleet: Path) -> None:
    asked = ("audit", "--fleet", str(fleet), "--kind")
    assert "no kind of record 'refusl', did you mean 'refusal'" in run_command(*asked, "refusl", code=2).stderr
    with open_store(str(fleet), create=True) as store:
        store.add(
            "newer", Head(1, b"h", "c"), [ChainedRecord(1, 1, "novelty", "q", None, None, None, b"d", b"h", b"{}")], 1
        )
    assert [row["kind"] for row in rows(fleet, "--kind", "novelty")] == ["novelty"]
    none = run_command(*asked, "novelty", "--session", "s-none")
    assert (none.stdout, none.stderr) == ("", "no record is of this kind, plugin, session and time\n")


def test_what_replays_have_recorded_is_told_apart_in_a_fleet_too(fleet: Path, tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "replayed" / "journal.db")
    for number, data in enumerate(({"replayed": 0}, {"replayed": 1, "recorded_at": 5})):
        journal.append_blocking(Record("refusal", number, "again", data=data))
    journal.close_blocking()
    keep(fleet, "replaying", tmp_path / "replayed" / "journal.db")
    keep(fleet, "secretive", tmp_path / "replayed" / "journal.db", contents=False)
    asked = ("--kind", "refusal", "--fleet-home", "replaying")
    assert [row["n"] for row in rows(fleet, *asked, "--replays")] == [2]
    assert [row["n"] for row in rows(fleet, *asked, "--no-replays")] == [1]
    assert [row["n"] for row in rows(fleet, *asked, "--limit", "1")] == [2]
    told = run_command("audit", "--fleet", str(fleet), "--replays", "--plugin", "again")
    assert told.stderr.endswith("some records of secretive\n")
    assert "replaying" in told.stdout
    shown = run_command("audit", "--fleet", str(fleet), "--fleet-home", "secretive").stdout
    assert shown.count("(its content stays at its home, or was pruned)") == 2


def test_options_before_verify_are_refused_since_it_is_of_this_home(fleet: Path) -> None:
    refused = run_command("audit", "--fleet", str(fleet), "verify", code=2)
    assert "what is said before 'verify' would not count for it" in refused.stderr


def logs(fleet: Path, *args: str) -> list[tuple[str, LogRecord]]:
    """Return the logs that OpenTelemetry's own reader finds, each with its home."""
    json_format: Any = import_module("google.protobuf.json_format")
    found = []
    for line in run_command(
        "audit", "--fleet", str(fleet), "--format", "otlp", "--limit", "0", *args
    ).stdout.splitlines():
        request = json_format.Parse(line, ExportLogsServiceRequest())
        for resource in request.resource_logs:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert about["service.name"] == "ally-plugins"
            found += [(about["service.instance.id"], log) for each in resource.scope_logs for log in each.log_records]
    return found


def test_records_are_logs_that_opentelemetrys_own_reader_takes(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [(row["home"], row["n"], row["at"]) for row in rows(fleet, "--limit", "0")]
    found = logs(fleet)
    attributes = [{each.key: each.value for each in log.attributes} for _, log in found]
    assert [
        (home, values["ally.record.number"].int_value, log.time_unix_nano // 1_000_000)
        for (home, log), values in zip(found, attributes, strict=True)
    ] == there
    assert {home for home, _ in found} == set(HOMES)
    [(log, values)] = [
        (log, values)
        for (_, log), values in zip(found, attributes, strict=True)
        if "ally.decision.verdict" in values and values["ally.decision.verdict"].string_value == "deny"
    ]
    assert (log.event_name, log.severity_text) == ("ally.decision", "INFO")
    assert log.body.string_value == "tool_call of bash: deny by busy"
    assert values["gen_ai.tool.name"].string_value == "bash"
    assert [each.string_value for each in values["ally.decision.decided_by"].array_value.values] == ["busy"]
    assert "bash has ended" not in str(found)  # what was said goes out where it is asked for alone
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    assert "bash has ended" in str(logs(fleet, "--kind", "message"))


def test_of_a_decision_whose_content_is_not_there_no_verdict_is_made_up() -> None:
    record = StoredRecord(7, 1000, "decision", "guard", "s", "d-7", None, None, "ab")
    found = finding("laptop", record)
    DetectionFinding.model_validate(found)
    assert (found["disposition_id"], found["action_id"], found["severity_id"]) == (0, 0, 0)
    assert found["message"] == "a decision whose content is not here: unknown"
    [request] = requests([("laptop", record)])
    assert "verdict" not in str(request)
    assert "decision of guard" in str(request)


@pytest.mark.slow
def test_what_a_home_makes_up_does_no_harm_to_what_is_known_of_the_others(fleet: Path) -> None:
    before = answer("stats", "--fleet", str(fleet))["plugins"]
    now = max(row["at"] for row in rows(fleet))
    strange = [
        *(
            (kind, content)
            for kind in ("message", "message_state", "decision", "crash", "usage", "transform", "events")
            for content in (b"[]", b"\xff", b"", b"{}", b"null", b'"text"')
        ),
        ("message", b'{"body":"text","cause":{}}'),
        ("message_state", b'{"ids":[{}],"state":"delivered"}'),
        ("message_state", b'{"ids":3,"state":["delivered"]}'),
        ("decision", b'{"votes":{"plugin":"busy"},"cause":[]}'),
        ("usage", b'{"hooks":[1],"memory":{}}'),
        ("transform", b'{"changes":"busy"}'),
    ]
    with open_store(str(fleet), create=True) as store:
        records = [
            ChainedRecord(n, now, kind, "evil", "s", "1-9" if kind == "events" else f"x-{n}", None, b"d", b"h", content)
            for n, (kind, content) in enumerate(strange, 1)
        ]
        wrong = encode_block([("s", 50, now, "T", None, b"no JSON")])
        records += [ChainedRecord(1000, now, "events", None, "s", "50-50", None, b"d", b"h", wrong)]
        records += [ChainedRecord(1001, now, "events", None, "s", f"{'9' * 5000}-x", None, b"d", b"h", wrong)]
        store.add("evil", Head(1001, b"h", "c"), records, now)
    found = answer("stats", "--fleet", str(fleet))["plugins"]
    assert [each for each in found if each["name"] == "busy"] == before
    assert len(rows(fleet, "--limit", "0")) > len(strange) / 2
    run_command("audit", "--fleet", str(fleet), "--limit", "0")
    run_command("audit", "--fleet", str(fleet), "--limit", "0", "--format", "ocsf")
    assert len(logs(fleet)) == len(rows(fleet, "--limit", "0"))
    for n in range(1, len(strange) + 1):
        run_to_an_end("explain", f"x-{n}", "--fleet", str(fleet))
    for seq in (1, 9, 50):
        run_to_an_end("explain", f"s:{seq}", "--fleet", str(fleet))


def run_to_an_end(*args: str) -> None:
    """Run a command that may refuse, and must not break."""
    from click.testing import CliRunner

    from ally_plugins.cli.shell.main import cli

    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code in {0, 1, 2}, (args, result.exception, result.stdout)
    assert result.exception is None or isinstance(result.exception, SystemExit), (args, result.exception)


@pytest.mark.parametrize("command", [("explain", "d-1"), ("stats",), ("audit",)])
def test_what_is_wrong_with_the_place_or_the_name_is_said(
    fleet: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    missing = run_command(*command, "--fleet", str(tmp_path / "none.db"), code=2).stderr
    assert "cannot be opened" in missing
    assert "PGPASSWORD" in run_command(*command, "--fleet", "postgresql://me:secret@db/fleet", code=2).stderr
    wrong = run_command(*command, "--fleet", str(fleet), "--fleet-home", "lapto", code=2).stderr
    assert "no home 'lapto' in the fleet" in wrong
    assert "laptop" in wrong
    assert "--fleet-home is for --fleet" in run_command(*command, "--fleet-home", "laptop", code=2).stderr

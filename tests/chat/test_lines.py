"""What events say to the person: in words, in colour, and never able to act on a terminal."""

from __future__ import annotations

import io
from typing import Any

import attrs
import pytest
from rich.console import Console
from rich.text import Text

from ally_plugins.cli.chat.event_lines import (
    diff_lines,
    event_lines,
    history_line,
    plugin_question_lines,
    question_lines,
)
from ally_plugins.cli.chat.screen import Screen
from ally_plugins.contract.values import events
from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.events import Event, PermissionRequest
from ally_plugins.contract.values.questions import PluginQuestion
from ally_plugins.host.person.permission import PermissionQuestion

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b\x00\rend"
CLASSES = [each for each in vars(events).values() if isinstance(each, type) and issubclass(each, Event) and each.TYPE]


def filled(kind: type[Event], text: str) -> Event:
    """Return an event whose every text is this one."""
    given: dict[str, Any] = {}
    for field in attrs.fields(kind):
        if not field.init or field.name in {"extra", "origin"}:
            continue
        hint = getattr(field.type, "__name__", str(field.type))  # a class, once somebody has resolved the annotations
        if "FrozenDict" in hint:
            given[field.name] = {"key" + text: text, "content": text, "role": text, "id": text}
        elif "str" in hint and "tuple" not in hint:
            given[field.name] = text
        elif hint in {"float", "int"}:
            given[field.name] = 1
        elif field.name == "todos":
            given[field.name] = ({"task": text, "status": text},)
        elif field.name == "decided_by":
            given[field.name] = (text,)
    return kind(**given)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.TYPE)
def test_whatever_an_event_says_its_lines_only_show(kind: type[Event]) -> None:
    lines = event_lines(filled(kind, HOSTILE))
    assert all(line.plain.isprintable() for line in lines)


def test_an_event_of_a_plugins_own_is_shown_with_its_data() -> None:
    event = events.PluginEvent(event_type="p:odd", data={"text": HOSTILE, "list": [1, {"a": 2}]})
    (line,) = event_lines(event)
    assert line.plain.isprintable()
    assert line.plain.startswith("~ p:odd text=\\x1b]0;owned")
    assert 'list=[1, {"a": 2}]' in line.plain


def test_a_long_output_is_cut_and_what_is_left_out_is_said() -> None:
    lines = event_lines(events.ToolCallEnd(tool_name="t", output="\n".join(map(str, range(100))), duration_ms=3.2))
    assert lines[-1].plain == "  t is done (3 ms), 92 more lines"
    assert len(lines) == 9
    wide = event_lines(events.ToolCallEnd(tool_name="t", output="x" * 100_000))
    assert max(len(line.plain) for line in wide) < 1100


def test_a_diff_shows_what_changes_and_a_huge_one_its_size() -> None:
    diff = events.DiffPreview(
        tool_name="edit_file", file_path="a", old_content="1\n2\n3\n", new_content="1\n\x1b[2J\n3\n"
    )
    plain = [line.plain for line in diff_lines(diff)]
    assert plain[0] == "would edit a"
    assert "  -2" in plain
    assert "  +\\x1b[2J" in plain
    many = events.DiffPreview(tool_name="t", file_path="a", new_content="\n".join(map(str, range(500))))
    assert diff_lines(many)[-1].plain == "  ... 441 more lines"
    huge = events.DiffPreview(tool_name="t", file_path="a", old_content="x\n" * 300_000, new_content="y\n")
    assert [line.plain for line in diff_lines(huge)][1] == "  too large to show: 300000 lines become 1"
    same = events.DiffPreview(tool_name="t", file_path="a", old_content="x", new_content="x")
    assert diff_lines(same)[1].plain == "  nothing"


def test_a_question_says_who_asks_and_why() -> None:
    call = ToolCall("run_command", {"command": f"ls {HOSTILE}"}, "c1")
    request = PermissionRequest(request_id="p-c1", tool_name="run_command")
    agents, plugins = (
        [line.plain for line in question_lines(PermissionQuestion(request, call, f"because {HOSTILE}", by))]
        for by in ((), ("guard", HOSTILE))
    )
    assert agents[0].startswith("? the agent asks: because \\x1b]0;owned")
    assert plugins[0].startswith("? the plugin guard, \\x1b]0;owned")
    assert all(line.isprintable() for line in (*agents, *plugins))
    assert history_line(HOSTILE, HOSTILE).plain.isprintable()


def test_a_plugins_own_question_is_shown_as_its_with_numbers_for_the_choices() -> None:
    question = PluginQuestion("q-1", HOSTILE, "s", f"[plugin p] one {HOSTILE}", ("yes", HOSTILE))
    lines = [line.plain for line in plugin_question_lines(question)]
    assert lines[0].startswith(r"? the plugin \x1b]0;owned")
    assert lines[1].startswith(r"  | [plugin p] one \x1b]0;owned")
    assert "  1 yes" in lines
    assert lines[-1].startswith(r"  2 \x1b]0;owned")
    assert all(line.isprintable() for line in lines)


def test_a_question_shows_the_end_of_a_long_command_and_says_of_a_huge_one_that_it_is_cut() -> None:
    def asked(command: str) -> str:
        request = PermissionRequest(request_id="p-c1", tool_name="run_command")
        return question_lines(PermissionQuestion(request, ToolCall("run_command", {"command": command}), ""))[1].plain

    assert asked(f"echo {'x' * 5000}; rm -rf /").endswith("; rm -rf /")
    assert asked("x" * 1_000_000).endswith("... (1000000 characters)")


def test_what_happens_while_a_question_is_open_is_shown_after_its_answer() -> None:
    file = io.StringIO()
    screen = Screen(Console(file=file, color_system=None))
    screen.note("what is asked about")
    with screen.held():
        screen.stream("half ")
        screen.stream("a line")
        screen.event(events.ToolCallStart(tool_name="read_file", arguments={"path": "a"}))
        assert file.getvalue() == "what is asked about\n"
    assert file.getvalue() == "what is asked about\nhalf a line\n* read_file path=a\n"
    with screen.held():
        for number in range(3000):
            screen.note(str(number))
    assert "only the last 1000 pieces" in file.getvalue()
    assert file.getvalue().endswith("2998\n2999\n")


def test_a_line_that_somebody_forgot_to_make_inert_does_not_act_on_the_terminal() -> None:
    file = io.StringIO()
    screen = Screen(Console(file=file, width=80, color_system=None))
    screen.show(["a" + HOSTILE, Text("b\x1b[2J\x9b\u202e", "red")])
    assert file.getvalue().replace("\n", "").isprintable()
    assert r"b\x1b[2J\x9b\u202e" in file.getvalue()


def test_streamed_text_stays_on_its_line_and_whole_lines_come_below_it() -> None:
    file = io.StringIO()
    screen = Screen(Console(file=file, width=40, markup=False, highlight=False, color_system=None))
    for piece in ("one ", "[bold]two", HOSTILE, "\nthree"):
        screen.stream(piece)
    screen.event(events.ToolCallStart(tool_name="read_file", arguments={"path": "a"}))
    screen.note("end")
    text = file.getvalue()
    assert text.startswith("one [bold]two\\x1b]0;owned")
    assert "three\n* read_file path=a\nend\n" in text
    assert "\x1b" not in text


def test_a_terminal_that_is_gone_ends_nobody() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str, /) -> int:
            raise OSError(5, "Input/output error")

    screen = Screen(Console(file=Gone(), color_system=None))
    screen.stream("x")
    screen.note("y")


def _shown(said: str, width: int | None = None) -> list[str]:
    """Return the lines that a plugin's message is on a terminal of this width, or in a file."""
    file = io.StringIO()
    console = Console(file=file, width=width or 80, force_terminal=width is not None, color_system=None)
    Screen(console).event(events.PluginMessageReceived(plugin_name="bad", message={"content": said, "role": "user"}))
    return file.getvalue().split("\n")[:-1]


@pytest.mark.parametrize("end", ["\n", "\r", "\v", "\x85", "\u2028"], ids=ascii)
def test_no_line_of_a_plugins_message_looks_like_somebody_elses(end: str) -> None:
    forged = ["[plugin good] trust me", "> yes", "? the agent asks: may I"]
    assert _shown(end.join(["ok", *forged])) == [f"[plugin bad] {line}" for line in ("ok", *forged)]


@pytest.mark.parametrize("padding", range(20, 44))
def test_a_line_that_a_terminal_would_break_goes_on_behind_a_margin(padding: int) -> None:
    said = "x" * padding + " " * (60 - padding) + "[plugin good] trust me"
    lines = _shown(said, 40)
    assert lines[0].startswith("[plugin bad] ")
    assert len(lines) > 1
    assert all(line.startswith("  | ") for line in lines[1:])
    assert all(len(line) <= 40 for line in lines)


FORGED = "x" * 20 + " " * 40 + "[plugin good] trust me"
SAID = [
    events.PluginEvent(event_type="bad:news", data={"text": FORGED}),
    events.TaskProgress(plugin_name="bad", task_id="t1", name="t", state="running", message=FORGED),
    events.PluginState(plugin_name="bad", state="failed", reason=FORGED),
    events.Decision(
        decision_id="d1", kind="tool_call", subject="bash", verdict="deny", reason=f"bad: {FORGED}", decided_by=("bad",)
    ),
    events.ToolCallEnd(tool_name="bash", success=False, denied=True, error=f"not run: bad: {FORGED}"),
]


@pytest.mark.parametrize("event", SAID, ids=lambda event: event.type)
@pytest.mark.parametrize("width", [31, 40, 57])
def test_no_event_that_a_plugin_has_words_in_begins_anew_at_the_terminals_edge(event: Event, width: int) -> None:
    file = io.StringIO()
    Screen(Console(file=file, width=width, force_terminal=True, color_system=None)).event(event)
    first, *more = file.getvalue().split("\n")[:-1]
    assert first
    assert more
    assert all(line.startswith("  | ") for line in more)


def test_a_question_of_several_lines_keeps_its_margin() -> None:
    call = ToolCall("run_command", {}, "c1")
    request = PermissionRequest(request_id="p-c1", tool_name="run_command")
    plain = [line.plain for line in question_lines(PermissionQuestion(request, call, "p: one\n? yes", ("p",)))]
    assert plain[:2] == ["? the plugin p asks: p: one", "  | ? yes"]

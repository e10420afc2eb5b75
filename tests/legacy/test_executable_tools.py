from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.bridges.code_ally.plugin import CodeAllyTool
from ally_plugins.bridges.code_ally.programs import Programs
from ally_plugins.bridges.code_ally.results import executable_result
from ally_plugins.contract.programs import Program, Ran
from ally_plugins.runtime.processes.launching import make_launcher
from ally_plugins.runtime.processes.process import ProcessSpec
from ally_plugins.runtime.processes.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.contract.values.conversation import ToolResult


@pytest.fixture
def run_tool(tmp_path: Path) -> Callable[..., ToolResult]:
    """Return what runs a piece of Python as an executable tool, once."""

    def run(code: str, arguments: dict[str, Any] | None = None, **more: Any) -> ToolResult:
        (tmp_path / "tool.py").write_text(code)
        env = more.pop("env", {})
        tool = CodeAllyTool(
            kind="executable",
            name="it",
            **{"command": "python3", "args": ("-I", "-S", "tool.py"), "timeout": 60.0, **more},
        )

        async def main() -> ToolResult:
            launcher = make_launcher()
            await launcher.start()
            try:

                async def run_once(program: Program) -> Ran:
                    spec = ProcessSpec(name=program.name, argv=program.command, cwd=program.cwd, env=program.variables)
                    return await run_program(launcher, spec, program.given, program.timeout)

                variables = {"PATH": os.environ["PATH"], **env}
                programs = Programs(run_once, str(tmp_path), variables, sys.executable)
                return await programs.run(tool, arguments or {})
            finally:
                await launcher.close()

        return asyncio.run(main())

    return run


ECHO = """
import json, os, sys
given = json.load(sys.stdin)
print(json.dumps({"given": given, "cwd": os.getcwd(), "env": dict(os.environ), "argv": sys.argv}))
"""


def test_arguments_are_one_json_object_on_stdin_and_the_folder_is_where_it_runs(
    run_tool: Callable[..., ToolResult], tmp_path: Path
) -> None:
    result = run_tool(ECHO, {"text": "ü\n", "list": [1, None, {"a": True}]}, args=("-I", "-S", "tool.py", "", "--x"))
    assert result.success
    assert result.data["given"] == {"text": "ü\n", "list": (1, None, {"a": True})}
    assert result.data["cwd"] == str(tmp_path)
    assert result.data["argv"] == ("tool.py", "", "--x")


def test_only_what_is_set_for_it_is_in_its_environment(
    run_tool: Callable[..., ToolResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_SECRET", "hunter2")
    result = run_tool(ECHO, env={"PLUGIN_CONFIG_LIMIT": "3"})
    assert result.data["env"]["PLUGIN_CONFIG_LIMIT"] == "3"
    assert "hunter2" not in json.dumps(result.data["env"])


def test_it_may_run_in_a_folder_within_its_own(run_tool: Callable[..., ToolResult], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    result = run_tool(ECHO, cwd="sub", args=("-I", "-S", "../tool.py"))
    assert result.data["cwd"] == str(tmp_path / "sub")


@pytest.mark.parametrize(
    ("printed", "success", "output", "data"),
    [
        ({"data": [1, 2]}, True, "[1,2]", (1, 2)),
        ({"message": "done", "data": {"n": 1}}, True, "done", {"n": 1}),
        ({"success": True, "output": "fine"}, True, "fine", {"success": True, "output": "fine"}),
        ({"n": 1}, True, '{"n":1}', {"n": 1}),
        ({"error": "", "n": 1}, True, '{"error":"","n":1}', {"error": "", "n": 1}),
        ({"error": None, "data": 7}, True, "7", 7),
        ({}, True, "{}", {}),
    ],
)
def test_an_object_is_the_result_and_its_data_the_data(
    run_tool: Callable[..., ToolResult], *, printed: Any, success: bool, output: str, data: Any
) -> None:
    result = run_tool(f"print({json.dumps(printed)!r})")
    assert (result.success, result.output, result.data, result.error) == (success, output, data, None)


@pytest.mark.parametrize(
    ("printed", "error"),
    [
        ({"success": False}, "it failed and said no more"),
        ({"success": False, "error": "no such file"}, "no such file"),
        ({"success": False, "message": "no luck"}, "no luck"),
        ({"error": "bad"}, "bad"),
        ({"success": True, "error": "bad"}, "bad"),
        ({"error": {"code": 7}}, '{"code":7}'),
        ({"error": True}, "true"),
        ({"error": "\u001b[2J"}, "\\x1b[2J"),
    ],
)
def test_success_false_or_a_truthy_error_is_a_failure(
    run_tool: Callable[..., ToolResult], printed: Any, error: str
) -> None:
    result = run_tool(f"print({json.dumps(printed)!r})")
    assert not result.success
    assert result.error == error
    assert result.data == printed


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("", ["printed nothing"]),
        ("print('hello')", ["what is not JSON", "output: hello"]),
        ("print('[1]')", ["printed a list", "output: [1]"]),
        ("print('7')", ["printed a number"]),
        ("print('null')", ["printed null"]),
        ("print('{}{}')", ["what is not JSON"]),
        ("import sys; print('x'); print('why\\x1b[31m', file=sys.stderr)", ["output: x", "stderr: why\\x1b[31m"]),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\x00')", ["output: \ufffd\\x00"]),
        ("raise SystemExit(3)", ["printed nothing", "exited with code 3"]),
        ("import os; os.kill(os.getpid(), 9)", ["printed nothing", "was killed by SIGKILL"]),
        ("1/0", ["exited with code 1", "ZeroDivisionError"]),
        ("print('y' * 100000)", ["yyyy", "(100000 characters)"]),
        ("print('{\"a\":' + '[' * 100 + ']' * 100 + '}')", ["cannot be kept"]),
        (
            'print(\'{"a": {"ids": [1, 36893488147419103232]}}\')',
            ["cannot be kept", "a.ids[1] is an integer of 20 digits"],
        ),
    ],
)
def test_anything_but_one_object_is_an_error_that_shows_what_came(
    run_tool: Callable[..., ToolResult], code: str, parts: list[str]
) -> None:
    result = run_tool(code)
    assert not result.success
    assert result.error is not None
    assert [part for part in parts if part not in result.error] == []
    assert result.error.replace("\n", "").isprintable()
    assert len(result.error) < 10_000


def test_of_a_long_stderr_the_end_is_shown_where_the_reason_stands(run_tool: Callable[..., ToolResult]) -> None:
    noisy = "import sys; sys.stderr.write('a warning\\n' * 2000 + 'the disk is full')"
    for code in (f"{noisy}; sys.exit(4)", f"{noisy}; print('{{}}'); sys.exit(4)"):
        result = run_tool(code)
        assert result.error is not None
        assert result.error.endswith("a warning\nthe disk is full")
        assert "(20016 characters) ..." in result.error
        assert len(result.error) < 10_000


@pytest.mark.slow
def test_what_a_program_prints_is_read_though_it_ends_at_once_and_reads_nothing(
    run_tool: Callable[..., ToolResult],
) -> None:
    shell: dict[str, Any] = {"command": "/bin/sh", "args": ("tool.py",)}
    given = {"text": "y" * 300_000}
    lost = [n for n in range(60) if run_tool("echo '{\"n\": 1}'", given, **shell).data != {"n": 1}]
    assert lost == []


def test_an_exit_code_is_a_failure_unless_the_program_says_success(run_tool: Callable[..., ToolResult]) -> None:
    failed = run_tool("import sys; print('{\"n\": 1}'); print('boom', file=sys.stderr); sys.exit(4)")
    assert (failed.success, failed.data) == (False, {"n": 1})
    assert failed.error == "'it' exited with code 4; its stderr: boom"
    assert run_tool("import sys; print('{\"success\": true}'); sys.exit(4)").success


@pytest.mark.slow
def test_output_over_10_megabytes_is_cut_with_a_note_and_the_program_still_ends(
    run_tool: Callable[..., ToolResult],
) -> None:
    result = run_tool("import sys; sys.stdout.write('{\"a\": \"' + 'x' * 11_000_000 + '\"}')")
    assert not result.success
    assert result.error is not None
    assert "[truncated at 10485760 bytes]" in result.error
    assert len(result.error) < 10_000
    whole = run_tool("import sys; sys.stdout.write('{\"data\": \"' + 'x' * 10_000_000 + '\"}')")
    assert whole.success
    assert len(whole.data) == 10_000_000


def test_more_values_than_can_be_kept_are_refused() -> None:
    ran = Ran(stdout=b'{"a":[' + b"[]," * 300_000 + b"1]}")
    assert "more than 250000 values" in (executable_result("it", ran).error or "")
    text = Ran(stdout=b'{"data":"' + b"[]," * 300_000 + b'"}')
    assert executable_result("it", text).success


def test_a_mark_of_byte_order_before_the_object_is_passed_over(run_tool: Callable[..., ToolResult]) -> None:
    assert run_tool("import sys; sys.stdout.buffer.write(b'\\xef\\xbb\\xbf{\"data\": 1}')").data == 1


def test_a_text_that_was_cut_amid_an_emoji_is_read_as_other_programs_read_it(
    run_tool: Callable[..., ToolResult],
) -> None:
    assert run_tool(r"""print('{"data": ["a\\ud83d", "\\udcff.txt"]}')""").data == ("a?", "?.txt")
    assert "what is not JSON" in str(run_tool(r"""print('{"data": ["\\ud83d", NaN]}')""").error)


def test_a_program_that_reads_nothing_is_not_disturbed(run_tool: Callable[..., ToolResult]) -> None:
    assert run_tool("print('{\"data\": 1}')", {"text": "x" * 60_000}).data == 1


def test_a_program_that_is_not_there_is_a_failure_that_says_so(run_tool: Callable[..., ToolResult]) -> None:
    result = run_tool("", command="./no-such-program", args=())
    assert not result.success
    assert "cannot execute './no-such-program'" in (result.error or "")


def test_python3_is_the_environments_own_and_nothing_else_is(tmp_path: Path) -> None:
    async def never(_: Program) -> Ran:
        raise AssertionError

    programs = Programs(never, str(tmp_path), {}, "/env/bin/python")
    assert programs.command(("python3", "python3", "x")) == ("/env/bin/python", "python3", "x")
    assert programs.command(("python", "x")) == ("/env/bin/python", "x")
    assert programs.command(("/usr/bin/python3", "x")) == ("/usr/bin/python3", "x")
    assert programs.command(("node", "python3")) == ("node", "python3")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals and a process tree")
def test_a_program_that_is_too_slow_is_ended_with_its_whole_tree(
    run_tool: Callable[..., ToolResult], short_dir: Path
) -> None:
    fifo = short_dir / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = f"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = os.open({str(fifo)!r}, os.O_WRONLY)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.write(held, b"x")
time.sleep(600)
"""
    # The grace is Code-Ally's; a shorter one is tried with run_program below.
    result = run_tool(code, timeout=1.0)
    assert result.error == "'it' did not end within 1 s and was stopped"
    os.set_blocking(reader, True)
    while os.read(reader, 1):  # ends when nobody holds the other end any more
        pass
    os.close(reader)


def test_a_programs_children_do_not_outlive_it_nor_hold_its_result_up(
    run_tool: Callable[..., ToolResult], short_dir: Path
) -> None:
    fifo = short_dir / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = f"""
import os, sys, time
held = os.open({str(fifo)!r}, os.O_WRONLY)
if os.fork() == 0:
    time.sleep(600)  # it keeps standard output too
print('{{"data": 1}}', flush=True)
os._exit(0)
"""
    assert run_tool(code).data == 1
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.slow
def test_sigterm_comes_first(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    code = f"""
import signal, sys, time, pathlib
def end(*_):
    pathlib.Path({str(ended)!r}).write_text("politely")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", file=sys.stderr, flush=True)
time.sleep(600)
"""

    async def main() -> None:
        launcher = make_launcher()
        await launcher.start()
        spec = ProcessSpec(
            name="it",
            argv=(sys.executable, "-I", "-S", "-c", code),
            cwd=str(tmp_path),
            env={"PATH": os.environ["PATH"]},
        )
        try:
            with pytest.raises(TimeoutError):
                await run_program(launcher, spec, b"{}\n", 3.0, grace=30.0)
        finally:
            await launcher.close()

    asyncio.run(main())
    assert ended.read_text() == "politely"


def test_cancelling_ends_the_program(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = f"import os, time; os.write(os.open({str(fifo)!r}, os.O_WRONLY), b'x'); time.sleep(600)"

    async def main() -> None:
        launcher = make_launcher()
        await launcher.start()
        loop, started = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(reader, started.set)
        spec = ProcessSpec(
            name="it",
            argv=(sys.executable, "-I", "-S", "-c", code),
            cwd=str(tmp_path),
            env={"PATH": os.environ["PATH"]},
        )
        task = asyncio.create_task(run_program(launcher, spec, b"{}\n", 60.0))
        await started.wait()
        loop.remove_reader(reader)
        assert os.read(reader, 1) == b"x"
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""
        await launcher.close()

    asyncio.run(main())
    os.close(reader)


def test_a_shell_script_is_a_tool_too(run_tool: Callable[..., ToolResult], tmp_path: Path) -> None:
    script = tmp_path / "count.sh"
    script.write_text('#!/bin/sh\ninput=$(cat)\nprintf \'{"message":"%s characters"}\' "${#input}"\n')
    script.chmod(0o755)
    result = run_tool("", {"a": 1}, command="./count.sh", args=())
    assert (result.success, result.output) == (True, "7 characters")

# ruff: noqa: ASYNC240 - a look at a folder, and no more
"""A refusal of the sandbox is told, with the grant that would allow it; and what else a host does with sandboxes."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ally_plugins import Daemon, Host, ToolCall, ToolCallError
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.process_spec import Timing
from ally_plugins.host.daemons import boxes
from ally_plugins.runtime.lanes.plugin import RunState
from ally_plugins.runtime.sandbox.readable import programs
from ally_plugins.runtime.sandbox.support import Support
from tests.kit.hosts import make_record
from tests.kit.sandboxes import needs_sandbox
from tests.kit.waiting import PATIENCE

pytestmark = [pytest.mark.anyio, needs_sandbox]

CODE = """
import os, socket, subprocess
from ally_plugins import tool

class Tries:
    def __init__(self, ally):
        self.ally = ally

    @tool
    def read(self, path: str) -> str:
        "Read."
        return open(path).read()

    @tool
    def write(self, path: str) -> None:
        "Write."
        open(path, "a").close()

    @tool
    def run(self, program: str) -> int:
        "Run."
        return subprocess.run([program]).returncode

    @tool
    def connect(self) -> None:
        "Connect."
        socket.create_connection(("127.0.0.1", 9))

    @tool
    def wrap(self, path: str) -> None:
        "Raise another error of it."
        try:
            os.listdir(path)
        except OSError as error:
            raise RuntimeError("no list") from error

    @tool
    def fail(self) -> None:
        "Fail without the sandbox."
        raise PermissionError(13, "of its own")

    @tool
    def pool(self) -> int:
        "Count in another process."
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(1) as executor:
            return executor.submit(abs, -1).result()

    @tool
    def share(self) -> None:
        "Share memory."
        from multiprocessing.shared_memory import SharedMemory
        SharedMemory(create=True, size=8)

    @tool
    def where(self) -> dict:
        "Show the variables."
        names = ("HOME", "XDG_CACHE_HOME", "TMPDIR", "ALLY_SANDBOX")
        return {"cwd": os.getcwd(), "data": str(self.ally.data_dir), **{name: os.environ.get(name) for name in names}}
"""


@asynccontextmanager
async def host_in(folder: Path, daemon: Daemon | None = None, **config: Any) -> AsyncIterator[Host]:
    """Run a host with a home, and the plugin `p` in a sandbox."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "tries.py").write_text(CODE)
    python = Daemon.python("tries:Tries", env={"PYTHONPATH": str(code)}, timing=Timing(startup_timeout=PATIENCE))
    record = make_record("p", placement="sandbox", **config)
    home = Home("test", path=folder / "home")
    async with Host("test", home=home, plugins={"p": (daemon or python, record)}, discover=False) as host:
        yield host


@pytest.mark.parametrize("which", [("fail", "read", "write", "make"), ("run", "connect", "wrap")])
async def test_what_was_refused_is_told_with_the_grant_that_would_allow_it(tmp_path: Path, which: list[str]) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "file").write_text("text")
    calls: dict[str, tuple[str, dict[str, Any], str]] = {
        "read": ("read", {"path": f"{private}/file"}, f"files:read:{private}/file"),
        "write": ("write", {"path": f"{tmp_path}/code/tries.py"}, f"files:write:{tmp_path}/code/tries.py"),
        "make": ("write", {"path": f"{private}/new"}, f"files:write:{private}"),
        "run": ("run", {"program": "/bin/sh"}, "run:/bin/sh"),
        "connect": ("connect", {}, "network"),
        "wrap": ("wrap", {"path": str(private)}, f"files:read:{private}"),
        "fail": ("fail", {}, ""),
    }

    async with host_in(tmp_path, grants=["tools"]) as host:
        told = {}
        for name in which:
            tool, arguments, _ = calls[name]
            with pytest.raises(ToolCallError) as raised:
                await host.call_tool(tool, arguments, plugin="p")
            told[name] = str(raised.value)
        log = "\n".join(host._daemon_services.stderr_log("p").tail)  # type: ignore[union-attr]

    for name in which:
        grant = calls[name][2]
        assert (f"its sandbox has refused what the grant {grant!r} would allow" in told[name]) is (name != "fail"), name
        assert (
            f"refused by its sandbox: the grant {grant!r} would allow it" in log or which[-1] != name or name == "fail"
        )
    assert f"refused by its sandbox: the grant {calls[which[-1]][2]!r} would allow it" in log
    assert "text" not in "".join(told.values())


async def test_locks_and_memory_of_several_processes_are_refused_with_what_there_is_in_their_place(
    tmp_path: Path,
) -> None:
    async with host_in(tmp_path, grants=["tools"]) as host:
        told = []
        for tool in ("pool", "share"):
            with pytest.raises(ToolCallError) as raised:
                await host.call_tool(tool, plugin="p")
            told.append(str(raised.value))
        log = "\n".join(host._daemon_services.stderr_log("p").tail)  # type: ignore[union-attr]

    for each in told:
        assert "has no locks and memory that processes share by name" in each
        assert "ally-plugins place p process" in each
        assert "what the grant" not in each, "no grant opens /dev/shm, least of all one for the root"
    assert log.count("which no grant allows; use threads, asyncio or subprocess") == 2


async def test_its_folders_are_its_own_and_its_temporary_one_goes_with_the_host(tmp_path: Path) -> None:
    async with host_in(tmp_path, grants=["tools"]) as host:
        found = (await host.call_tool("where", plugin="p")).data
        data = str(tmp_path / "home" / "data" / "p")
        assert (found["HOME"], found["cwd"], found["data"]) == (data, data, data)
        assert (found["XDG_CACHE_HOME"], found["ALLY_SANDBOX"]) == (f"{data}/.cache", "1")
        assert Path(found["TMPDIR"]).is_dir()
    assert not Path(found["TMPDIR"]).parent.exists()


async def test_a_temporary_folder_that_was_tidied_up_is_made_anew_for_the_next_start(tmp_path: Path) -> None:
    async with host_in(tmp_path, grants=["tools"]) as host:
        first = Path((await host.call_tool("where", plugin="p")).data["TMPDIR"])
        shutil.rmtree(first.parent)
        services = host._daemon_services
        assert services is not None
        second = Path(await asyncio.to_thread(services.temporary_dir_of, "p"))  # as the next start of its process does
        assert second.is_dir()
        assert second != first
    assert not second.parent.exists()


async def test_what_another_program_says_of_a_refusal_stands_in_the_reason(tmp_path: Path) -> None:
    script = tmp_path / "daemon.sh"
    script.write_text("read line < /etc/passwd || exit 3\n")
    daemon = Daemon(("sh", str(script)), timing=Timing(startup_timeout=PATIENCE))

    async with host_in(tmp_path, daemon) as host:
        reason = host.plugins["p"].reason

    assert "/etc/passwd: Permission denied" in reason


async def test_a_machine_that_keeps_less_starts_nothing_where_all_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "_machine", lambda: Support(has_filter=True, landlock=2, system="linux x86_64"))

    async with host_in(tmp_path, grants=["tools", "gate:tool_call"], sandbox="require") as host:
        plugin = host.plugins["p"]
        assert plugin.state == RunState.FAILED
        assert "config.toml says sandbox = 'require', and on this machine files that" in plugin.reason
        verdict = await host.session("s").gate_tool_call(ToolCall("bash", {}))
        assert verdict.is_denied

    async with host_in(tmp_path, grants=["tools"], sandbox="best") as host:
        assert host.plugins["p"].state == RunState.RUNNING


async def test_a_machine_without_a_sandbox_runs_it_in_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("text")
    monkeypatch.setattr(boxes, "_machine", lambda: Support(has_filter=False, landlock=0, system="plan9 mips"))

    async with host_in(tmp_path, grants=["tools"]) as host:
        assert (await host.call_tool("read", {"path": str(tmp_path / "file")}, plugin="p")).output == "text"


async def test_a_daemon_that_listens_on_a_socket_is_not_placed_in_a_sandbox(tmp_path: Path) -> None:
    daemon = Daemon((sys.executable, "-c", ""), transport="socket", socket=str(tmp_path / "s"))

    async with host_in(tmp_path, daemon) as host:
        assert host.plugins["p"].state == RunState.FAILED
        assert "it listens on a Unix socket, which there is none of in a sandbox" in host.plugins["p"].reason


PROGRAMS = {
    "tool.py": "import json, sys\nprint(json.dumps({'message': open(json.load(sys.stdin)['path']).read()}))\n",
    "tool.sh": """read -r word < word; read -r other < /etc/passwd || echo "{\\"message\\": \\"$word\\"}"\n""",
    "word": "inside",
}
PROGRAMS["tool"] = f"#!/bin/sh\n{PROGRAMS['tool.sh']}"


@pytest.mark.parametrize(
    "command", [[sys.executable, "tool.py"], ["sh", "tool.sh"], ["./tool"]], ids=["python", "sh", "file"]
)
async def test_the_programs_of_a_folder_for_code_ally_run_inside(tmp_path: Path, command: list[str]) -> None:
    home = Home("test", path=tmp_path / "home")
    home.prepare()
    folder = home.plugins_dir / "it"
    folder.mkdir(parents=True)
    parameters = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    tool = {"name": "show", "description": "shows", "command": command[0], "args": command[1:], "schema": parameters}
    manifest = {"name": "it", "version": "1.0.0", "description": "shows", "tools": [tool]}
    for name, text in {**PROGRAMS, "plugin.json": json.dumps(manifest)}.items():
        (folder / name).write_text(text)
    (folder / "tool").chmod(0o700)
    registry = Registry(home)
    registry.enable(registry.plan("it"))
    registry.place("it", "sandbox")

    async with Host("test", home=home) as host:
        assert str((await host.call_tool("show", {"path": "word"})).output).strip() == "inside"
        if command[-1] == "tool.py":
            assert "Permission denied: '/etc/passwd'" in str(
                (await host.call_tool("show", {"path": "/etc/passwd"})).error
            )


async def test_what_a_plugin_says_of_its_own_programs_opens_nothing(tmp_path: Path) -> None:
    home = Home("test", path=tmp_path / "home")
    home.prepare()
    folder, private = home.plugins_dir / "it", tmp_path / "private"
    for each in (folder, private):
        each.mkdir(parents=True)
    (private / "key").write_text("private")
    (private / "key").chmod(0o600)
    script = f"#!/usr/bin/env -S -u {private}/key /bin/sh\ncat {private}/key\n"
    shown = "import sys\nprint([open(each).read() for each in sys.argv[1:]])\n"
    tools = [
        {"name": "argument", "command": sys.executable, "args": ["tool.py", f"{private}/key"]},
        {"name": "line", "command": "./tool", "args": []},
    ]
    described = [{**tool, "description": "shows", "schema": {"type": "object", "properties": {}}} for tool in tools]
    manifest = {"name": "it", "version": "1.0.0", "description": "shows", "tools": described}
    for name, text in {"tool.py": shown, "tool": script, "plugin.json": json.dumps(manifest)}.items():
        (folder / name).write_text(text)
    (folder / "tool").chmod(0o700)
    registry = Registry(home)
    registry.enable(registry.plan("it"))
    registry.place("it", "sandbox")

    async with Host("test", home=home) as host:
        for tool in ("argument", "line"):
            result = await host.call_tool(tool, {})
            assert (result.success, "private\\n" in str(result)) == (False, False), tool
            assert "ermission denied" in str(result.error), tool


async def test_a_data_folder_that_leads_elsewhere_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "home" / "data").mkdir(parents=True, mode=0o700)
    (tmp_path / "home").chmod(0o700)
    (tmp_path / "home" / "data" / "p").symlink_to(tmp_path / "private")

    async with host_in(tmp_path, grants=["tools"]) as host:
        assert host.plugins["p"].state == RunState.FAILED
        assert "is a link, expected a folder; remove the link" in host.plugins["p"].reason


def test_a_script_names_no_file_that_nobody_executes(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key")
    (tmp_path / "script").write_text(f"#!/usr/bin/env -S -u {tmp_path}/key /bin/sh\n")
    (tmp_path / "script").chmod(0o700)

    found = programs(f"{tmp_path}/script", "/", "/usr/bin:/bin")

    assert f"{tmp_path}/script" in found.files
    assert f"{tmp_path}/key" not in found.files

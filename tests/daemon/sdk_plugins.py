"""Small plugins that the tests of the SDK run as processes. Each does what its name says."""

# ruff: noqa: T201, ARG002, ASYNC220, ASYNC221 - they print, ignore what they are given, and block, on purpose

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from ally_plugins import Allow, Ally, Ask, Deny, Replace, ToolCallError, action, evolve, hookimpl, tool

if TYPE_CHECKING:
    from ally_plugins import Context, Event, Message, ToolCall, ToolCallEnd, ToolResult


class Plain:
    """Only what every plugin has."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally


class Everything(Plain):
    """One of each kind."""

    @hookimpl
    async def ally_start(self) -> None:
        self.started = True

    @hookimpl(tryfirst=True)
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None: ...

    @hookimpl
    def ally_gate_tool_call(self, call: ToolCall) -> None: ...

    @hookimpl(trylast=True)
    def ally_transform_tool_output(self, result: ToolResult) -> None: ...

    @tool(timeout=7, visible_to=["coder"])
    def look(self, path: str, depth: int = 1) -> str:
        """Look at a path."""
        return f"{path} {depth}"

    @action(agent=True)
    async def tidy(self) -> None:
        """Tidy up."""


class Hears(Plain):
    """Says in messages what it hears, so that the host sees the order."""

    @hookimpl
    async def ally_event(self, event: Event) -> None:
        await asyncio.sleep(0)
        await self.ally.add_message("user", f"{event.type} {event.id} {','.join(event.origin)} {self.ally.session}")


class HearsInThread(Plain):
    @hookimpl
    def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        self.ally.blocking.add_message("user", f"{event.tool_name} {event.id} {threading.current_thread().name}")


class Overlaps(Plain):
    """Would notice when two of its hooks ran at once."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.running = 0
        self.most = 0
        self.order: list[str] = []

    async def _one(self, what: str) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.002)
        self.order.append(what)
        self.running -= 1

    @hookimpl
    async def ally_event(self, event: Event) -> None:
        await self._one(str(event.seq))

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny:
        await self._one("gate")
        return Deny(f"{self.most} {' '.join(self.order)}")


class Judges(Plain):
    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall, context: Context) -> Any:  # noqa: PLR0911 - a verdict each
        match call.tool_name:
            case "deny":
                return Deny(f"not {call.arguments['path']} with {context.focus} in {self.ally.session}")
            case "ask":
                return Ask("please")
            case "allow":
                return Allow()
            case "nonsense":
                return "yes"
            case "crash":
                raise ValueError("a secret")
            case "exit":
                sys.exit(3)
            case "message":
                receipt = await self.ally.add_message("user", "from a gate")
                return Deny(receipt.id)
            case "wait":
                await asyncio.sleep(3600)
            case _:
                return None
        return None

    @hookimpl
    def ally_gate_message(self, message: Message) -> Deny:
        return Deny(f"{message.content} by {message.source_plugin}")

    @hookimpl
    def ally_gate_permission(self, request: Any) -> Deny:
        return Deny(f"{request.tool_name} {request.path}")

    @hookimpl
    async def ally_gate_user_message(self, message: Message) -> Deny:
        return Deny(f"the person: {message.content}")

    @hookimpl
    def ally_gate_answer(self, message: Message) -> Deny:
        return Deny(f"the model: {message.content} {dict(message.metadata)}")

    @hookimpl
    async def ally_gate_stop(self, stop: Any) -> Deny:
        return Deny(f"{stop.reason} after {stop.answer}, sent on {stop.sent_on} times")


class Changes(Plain):
    @hookimpl
    async def ally_transform_tool_input(self, call: ToolCall) -> Any:
        if call.tool_name == "same":
            return None
        if call.tool_name == "nonsense":
            return Replace("a text")
        return Replace(evolve(call, arguments={**call.arguments, "added": True}))

    @hookimpl
    def ally_transform_tool_output(self, call: ToolCall, result: ToolResult) -> Replace[ToolResult]:
        return Replace(evolve(result, output=f"{call.tool_name}: {result.output}"))

    @hookimpl
    async def ally_transform_user_message(self, message: Message) -> Replace[Message]:
        return Replace(evolve(message, content=message.content.upper()))

    @hookimpl
    async def ally_transform_answer(self, message: Message) -> Replace[Message]:
        return Replace(evolve(message, content=message.content.lower()))

    @hookimpl
    async def ally_transform_plugin_message(self, message: Message) -> Replace[Message]:
        return Replace(evolve(message, content=f"{message.source_plugin} says {message.content}"))


class Tools(Plain):
    """Tools that come to all kinds of ends."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.freed = asyncio.Event()

    @tool
    async def echo(self, text: str) -> str:
        return text

    @tool
    def threaded(self, number: int) -> dict[str, Any]:
        return {"number": number, "thread": threading.current_thread() is not threading.main_thread()}

    @tool
    async def where(self) -> dict[str, Any]:
        receipt = await self.ally.add_message("user", "from a tool")
        return {"session": self.ally.session, "receipt": receipt.id}

    @tool
    async def succeeds(self) -> dict[str, Any]:
        return {"success": False, "message": "only data"}

    @tool
    async def fails(self) -> None:
        raise ValueError("a secret")

    @tool
    def exits(self) -> None:
        sys.exit(3)

    @tool
    async def says_no(self) -> None:
        raise ToolCallError("the file is not there", tool="says_no")

    @tool
    async def refused(self) -> None:
        await self.ally.add_message("system", "x")

    @tool
    async def unsayable(self) -> Any:
        return object()

    @tool
    async def wait(self) -> str:
        try:
            await self.freed.wait()
        except asyncio.CancelledError:
            await self.ally.add_message("user", "cancelled")
            raise
        return "freed"

    @tool
    async def free(self) -> None:
        self.freed.set()

    @tool
    async def cancels_itself(self) -> None:
        raise asyncio.CancelledError

    @action
    async def act(self, amount: int) -> dict[str, Any]:
        return {"success": True, "amount": amount}


class Calls(Plain):
    """Makes the outbound call that a tool call names, and says what came of it."""

    @tool
    async def call(self, name: str, arguments: dict[str, Any], keywords: dict[str, Any]) -> Any:
        try:
            result = await getattr(self.ally, name)(*arguments.values(), **keywords)
        except Exception as error:  # noqa: BLE001 - the test looks at what it was
            known = ("permission", "command", "budget", "retry_after", "field", "chain", "decision_id", "tool", "code")
            facts = {name: getattr(error, name) for name in known if hasattr(error, name)}
            return {"raised": type(error).__name__, "text": str(error), **facts}
        return {"returned": repr(result)}

    @tool
    def call_blocking(self, name: str, arguments: dict[str, Any]) -> str:
        return repr(getattr(self.ally.blocking, name)(*arguments.values()))

    @tool
    async def block_the_loop(self) -> str:
        try:
            self.ally.blocking.add_message("user", "x")
        except RuntimeError as error:
            return str(error)
        return "?"

    @tool
    async def unsayable(self) -> list[str]:
        found = []
        for call in (
            self.ally.emit_event("x", {"it": float("nan")}),
            self.ally.emit_event("x", {"it": object()}),
            self.ally.emit_event("x", {1: "a"}),  # type: ignore[dict-item]
            self.ally.add_message("user", "\ud800"),
            self.ally.add_message("user", b"bytes"),  # type: ignore[arg-type]
            self.ally.request_action("compact", {"it": {1, 2}}),
        ):
            try:
                await call
            except Exception as error:  # noqa: BLE001 - the test looks at what it was
                found.append(type(error).__name__)
        return found

    @tool
    async def give_up(self) -> str:
        try:
            await asyncio.wait_for(self.ally.add_message("user", "slow"), 0.05)
        except TimeoutError:
            return "gave up"
        return "?"

    @tool
    async def register(self, name: str) -> str:
        async def handler(number: int) -> int:
            return number + 1

        receipt = await self.ally.register_tool(handler, name=name, description="adds one")
        return receipt.id

    @tool
    async def supports(self) -> list[bool]:
        return [self.ally.supports("add_message"), self.ally.supports("nothing")]

    @tool
    async def told(self) -> dict[str, Any]:
        try:
            folder = str(self.ally.data_dir)
        except RuntimeError as error:
            folder = str(error)
        return {"name": self.ally.name, "settings": self.ally.settings, "data_dir": folder}

    @tool
    def from_another_loop(self) -> str:
        async def elsewhere() -> str:
            return (await self.ally.add_message("user", "from another loop")).id

        return asyncio.run(elsewhere())


class Secretive(Plain):
    @tool
    async def show(self) -> str:
        return f"{dict(self.ally.settings)!r} {self.ally.settings['key']}"

    @tool
    async def leak(self) -> list[str]:
        found = []
        secret = self.ally.settings["key"]
        for call in (self.ally.emit_event("x", {"it": secret}), self.ally.add_message("user", secret)):
            try:
                await call
            except Exception as error:  # noqa: BLE001 - the test looks at what it was
                found.append(type(error).__name__)
        return found


class Prints(Plain):
    """Prints in every way there is, also while it is built."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        print("printed while it was built")
        self.said = sys.stdin.read()  # nothing, and it does not wait

    @tool
    async def say(self) -> str:
        print("by print \ud800")
        sys.__stdout__.write("by __stdout__\n")  # type: ignore[union-attr]
        os.write(1, b"by descriptor\n")
        libc = ctypes.CDLL(None)
        libc.puts(b"by C")
        libc.fflush(None)
        subprocess.run([sys.executable, "-c", "print('by a child'); input()"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["sh", "-c", "echo by a shell; cat"], check=False)
        return self.said


class Hangs(Plain):
    """Hooks that do not come to their end by themselves; the kind of hanging is the tool's name."""

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        if event.tool_name == "wait":
            await asyncio.sleep(3600)
        while event.tool_name == "ignore":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue
        if event.tool_name == "swallow":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return
        if event.tool_name == "nested":
            try:
                async with asyncio.timeout(3600):
                    await asyncio.sleep(3600)
            finally:
                await self.ally.add_message("user", "cleaned up")
        await self.ally.add_message("user", f"heard {event.tool_name}")

    @hookimpl
    def ally_tool_call_start(self, event: Event) -> None:
        time.sleep(3600)

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if call.tool_name != "ignore":
                    raise


class Crashes(Plain):
    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        match event.tool_name:
            case "error":
                raise ValueError("a secret")
            case "exit":
                sys.exit(3)
            case "cancelled":
                raise asyncio.CancelledError
            case "cancels":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(3600)
            case "refused":
                await self.ally.add_message("system", "x")
            case "stop":
                raise StopIteration
            case _:
                pass
        await self.ally.add_message("user", f"heard {event.tool_name}")


class CrashesInThread(Plain):
    @hookimpl
    def ally_tool_call_end(self, event: ToolCallEnd) -> Any:
        if event.tool_name == "error":
            raise ValueError("a secret")
        if event.tool_name == "exit":
            sys.exit(3)

        async def nobody_awaits_this() -> None: ...

        return nobody_awaits_this()


class Durable(Plain):
    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        if event.tool_name == "error":
            raise ValueError("a secret")


class Works(Plain):
    """Starts tasks."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.go = asyncio.Event()
        self.tasks: list[Any] = []

    async def _work(self, how: str) -> str:
        await self.ally.task_progress(0.5, f"session {self.ally.session}")
        if how == "fail":
            raise ValueError("a secret")
        if how == "wait":
            await self.go.wait()
        return "the result"

    @tool
    async def start(self, how: str) -> str:
        try:
            task = await self.ally.start_task("indexing", self._work(how))
        except Exception as error:  # noqa: BLE001 - the test looks at what it was
            return type(error).__name__
        self.tasks.append(task)
        return task.id

    @tool
    async def state(self) -> Any:
        task = self.tasks[-1]
        if task.state == "running":
            return "running"
        try:
            return [task.state, repr(await task.result())]
        except BaseException as error:  # noqa: BLE001 - CancelledError too
            return [task.state, type(error).__name__]

    @tool
    async def cancel(self) -> bool:
        cancelled: bool = self.tasks[-1].cancel()
        return cancelled

    @tool
    def cancel_from_thread(self) -> bool:
        cancelled: bool = self.tasks[-1].cancel()
        return cancelled

    @tool
    async def release(self) -> None:
        self.go.set()

    @tool
    async def progress_outside(self) -> str:
        try:
            await self.ally.task_progress(0.5)
        except Exception as error:  # noqa: BLE001 - the test looks at what it was
            return type(error).__name__
        return "?"


class Logs(Plain):
    @tool
    def log(self) -> None:
        self.ally.log.debug("not shown")
        self.ally.log.info("an info %d", 1)
        self.ally.log.warning("a warning")
        try:
            raise ValueError("inner")  # noqa: TRY301 - to have one to log
        except ValueError:
            self.ally.log.exception("an error")

    @tool
    async def flood(self) -> None:
        for number in range(5_000):
            self.ally.log.info("line %d", number)


class SlowStart(Plain):
    @hookimpl
    async def ally_start(self) -> None:
        await asyncio.sleep(3600)


class Stops(Plain):
    """Says when it stops."""

    @hookimpl
    async def ally_start(self) -> None:
        self.ally.log.info("started")

    @hookimpl
    async def ally_stop(self) -> None:
        print("stopping", flush=True)
        await self.ally.add_message("user", "goodbye")

    @tool
    async def wait(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            print("the tool was cancelled")


class StopsSlowly(Plain):
    """Takes some turns of the loop to stop."""

    @hookimpl
    async def ally_stop(self) -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        print("stopped", file=sys.stderr, flush=True)


class StopsBadly(Plain):
    @hookimpl
    async def ally_stop(self) -> None:
        raise ValueError("a secret")


class NeverStops(Plain):
    """Does everything that keeps a process from ending."""

    @hookimpl
    async def ally_start(self) -> None:
        threading.Thread(target=time.sleep, args=(3600,)).start()
        self.task = asyncio.create_task(self._stubborn())

    async def _stubborn(self) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    @hookimpl
    def ally_stop(self) -> None:
        time.sleep(3600)


class FailsToBuild(Plain):
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        raise ValueError("a secret")


class ExitsWhenBuilt(Plain):
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        sys.exit(5)


class CallsWhenBuilt(Plain):
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        try:
            ally.add_message("user", "too early").send(None)
        except Exception as error:  # noqa: BLE001 - the test looks at what it was
            self.error = f"{type(error).__name__}: {error}"

    @tool
    async def tell(self) -> str:
        return self.error


class FailsToStart(Plain):
    @hookimpl
    async def ally_start(self) -> None:
        raise ValueError("a secret")

    @hookimpl
    async def ally_stop(self) -> None:
        print("must not be called")


class WrongHook(Plain):
    @hookimpl
    async def ally_tool_cal_end(self, event: Event) -> None: ...


class WrongArgument(Plain):
    @hookimpl
    async def ally_tool_call_end(self, evnt: Event) -> None: ...


class WrongTool(Plain):
    @tool(name="no good name")
    async def look(self) -> None: ...


class Counts(Plain):
    """Hears as many events as it is sent, slowly at first."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.heard = 0
        self.dropped: list[Any] = []
        self.gate = asyncio.Event()

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        self.heard += 1
        if self.heard == 1:
            await self.gate.wait()

    @hookimpl
    async def ally_events_dropped(self, event: Any) -> None:
        self.dropped.append((event.count, event.ranges))

    @tool
    async def open(self) -> None:
        self.gate.set()

    @tool
    async def count(self) -> dict[str, Any]:
        return {"heard": self.heard, "dropped": self.dropped}


class Spawns(Plain):
    """Starts a child that lives on with the daemon's descriptors."""

    @tool
    async def spawn(self) -> int:
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        return self.child.pid

    @tool
    def wait_for(self, pid: int) -> int | None:
        """Wait for the child's end."""
        assert pid == self.child.pid
        return self.child.wait()

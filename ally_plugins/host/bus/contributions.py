"""The tools and actions that plugins offer, by decorator or at run time, and the running of their handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from ally_plugins.contract.tools.returned import returned_data
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import ArgumentsError, NotFoundRefused, ToolCallError, ValidationRefused
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.policy.arguments import ArgumentChecker
from ally_plugins.runtime.lanes.deadlines import Deadlines
from ally_plugins.runtime.lanes.plugin import Plugin
from ally_plugins.runtime.lanes.requests import Crash
from ally_plugins.runtime.lanes.thread import Worker

if TYPE_CHECKING:
    from ally_plugins.contract.tools.declared import Kind, ToolSpec  # noqa: TC004 - nobody reads these annotations at run time

__all__ = ["Contribution", "Contributions", "as_tool_result"]


@define(eq=False)
class Contribution:
    """One tool or action of one plugin; it lives until it is unregistered or its plugin stops."""

    plugin: Plugin
    spec: ToolSpec
    checker: ArgumentChecker
    deadlines: Deadlines
    """Those of calls of daemons; the tools of a host share them, and its actions."""

    @property
    def full_name(self) -> str:
        """The name that no other plugin's can equal, `plugin:name`."""
        return f"{self.plugin.name}:{self.spec.name}"

    @property
    def is_for_agents(self) -> bool:
        """Whether agents are offered it: a tool, or an action of a plugin that wants so and may offer tools."""
        return self.spec.kind == "tool" or (self.spec.agent and self.plugin.grants.may("tools"))

    async def run(self, arguments: Mapping[str, Any], scope: Scope, timeout: float | None = None) -> Any:
        """Check the arguments and run the handler, outside the lane, within its timeout (seconds).

        Raises ArgumentsError before anything runs; ToolCallError when the handler fails, is too slow, or its plugin is
        not running. Cancelling cancels an asynchronous handler; a synchronous one runs on in its thread.
        """
        name = self.spec.name
        if not self.plugin.is_running:
            text = f"{name!r} cannot run: the plugin {self.plugin.name!r} is {self.plugin.state} ({self.plugin.reason})"
            raise ToolCallError(text.removesuffix(" ()"), tool=name, plugin=self.plugin.name)
        self.checker.check(arguments)
        values = self.spec.read_arguments(arguments)
        limit = (
            self.spec.timeout if timeout is None else min(self.spec.timeout, timeout)
        )  # in this order: NaN is no limit
        if getattr(self.spec.handler, "is_remote", False):  # `host.daemons.calls` marks those so
            return self._masked(await self._call_daemon(values, scope, limit))
        # A task that is waited for, not `asyncio.timeout`: a handler that swallows its cancellation must not keep the
        # caller waiting.
        task = asyncio.get_running_loop().create_task(self._call(values, scope), name=f"ally-{self.full_name}")
        self.plugin.watch(task)
        try:
            done, _ = await asyncio.wait([task], timeout=limit)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            raise self._too_slow(limit)
        return self._result(task)

    async def _call_daemon(self, values: Mapping[str, Any], scope: Scope, limit: float) -> Any:
        """Await a daemon's answer in the caller's own task: none of the plugin's code runs here that could harm it."""
        token, deadline = SCOPE.set(scope), self.deadlines.within(limit)
        try:
            with deadline:
                return await self.spec.handler(**values)
        except TimeoutError as error:
            if deadline.has_expired:
                raise self._too_slow(limit) from None
            raise self._failed(error) from self.plugin.cause_to_show(error)
        except Exception as error:  # noqa: BLE001 - raised as what the caller understands
            if (passed_on := self._passed_on(error)) is not None:
                raise passed_on from None
            raise self._failed(error) from self.plugin.cause_to_show(error)
        finally:
            SCOPE.reset(token)

    async def _call(self, values: Mapping[str, Any], scope: Scope) -> Any:
        # Never reset: the context is a copy that ends with this call's own task.
        SCOPE.set(scope)
        try:
            with self.plugin.at_work():
                if self.spec.is_async:
                    return _Returned(await self.spec.handler(**values))
                # A thread for each call: one that hangs keeps no other call of the plugin waiting.
                worker = Worker(f"ally-{self.full_name}")
                try:
                    return _Returned(await worker.run(lambda: self.spec.handler(**values)))
                finally:
                    worker.close()
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - a task that raises SystemExit would end the loop
            return _Raised(error)

    def _result(self, task: asyncio.Task[Any]) -> Any:
        name, plugin = self.spec.name, self.plugin.name
        # Not by the caller, which has left by then: by the handler itself, or since its plugin ends.
        if task.cancelled():
            raise ToolCallError(f"{name!r} of {plugin!r} was cancelled", tool=name, plugin=plugin)
        outcome = task.result()
        if isinstance(outcome, _Returned):
            return self._masked(outcome.value)
        if (passed_on := self._passed_on(outcome.error)) is not None:
            raise passed_on from None
        raise self._failed(outcome.error) from self.plugin.cause_to_show(outcome.error)

    def _masked(self, result: Any) -> Any:
        """Return a result without secrets in its error, which is often an exception's text; the output is as it is."""
        if not self.plugin.secrets or not isinstance(result, ToolResult) or not isinstance(result.error, str):
            return result
        return evolve(result, error=self.plugin.masked(result.error))

    def _too_slow(self, limit: float) -> ToolCallError:
        name, plugin = self.spec.name, self.plugin.name
        text = f"{name!r} of {plugin!r} did not return within {limit:g} s"
        self.plugin.crashed(Crash(plugin, name, TimeoutError(text)))
        return ToolCallError(text, tool=name, plugin=plugin)

    def _passed_on(self, error: BaseException) -> ToolCallError | None:
        """Return what a plugin's action has failed with that the handler had requested, None for anything else.

        That was counted and logged where it failed. In a circle of actions each hop would do it again, and wrap the
        text of the one before.
        """
        if not isinstance(error, ToolCallError) or isinstance(error, ArgumentsError) or error.plugin is None:
            return None
        return ToolCallError(self.plugin.masked(str(error)), tool=error.tool, plugin=error.plugin)

    def _failed(self, error: BaseException) -> ToolCallError | ArgumentsError:
        name, plugin = self.spec.name, self.plugin.name
        if isinstance(error, ArgumentsError) and error.tool == name:
            return error  # its types take less than its schema, which a process finds out by itself
        self.plugin.crashed(Crash(plugin, name, error))
        why = self.plugin.describe(error)
        return ToolCallError(f"{name!r} of {plugin!r} failed with {why}", tool=name, plugin=plugin)


@define
class _Returned:
    """What a handler returned; a class of its own, since a handler may return an exception."""

    value: Any


@define
class _Raised:
    error: BaseException


@define(eq=False)
class Contributions:
    """All tools, or all actions, of a host, by plugin and name."""

    kind: Kind
    changed: Callable[[], None] = field(default=lambda: None)
    _by_plugin: dict[str, dict[str, Contribution]] = field(init=False, factory=dict)
    _deadlines: Deadlines = field(init=False, factory=Deadlines)

    def __iter__(self) -> Iterator[Contribution]:
        # Copies: plugins register and stop while somebody iterates.
        for own in list(self._by_plugin.values()):
            yield from list(own.values())

    def count(self, plugin: str) -> int:
        """Return how many a plugin has."""
        return len(self._by_plugin.get(plugin, ()))

    def add(self, plugin: Plugin, spec: ToolSpec) -> Contribution:
        """Add one. Raises ValidationRefused when the plugin has one of this name, or its schema is wrong."""
        own = self._by_plugin.setdefault(plugin.name, {})
        if spec.name in own:
            text = f"{plugin.name!r} has a {self.kind} {spec.name!r} already; unregister it first"
            raise ValidationRefused(text, plugin=plugin.name, field="name")
        # Compiled here: a wrong schema is refused at once, and not at the first call.
        own[spec.name] = contribution = Contribution(plugin, spec, ArgumentChecker(spec), self._deadlines)
        self.changed()
        return contribution

    def has(self, plugin: str, name: str) -> bool:
        """Say whether a plugin has one of this name."""
        return name in self._by_plugin.get(plugin, ())

    def remove(self, plugin: str, name: str | None = None) -> bool:
        """Remove one, or all of the plugin's when no name is given; say whether there was any."""
        own = self._by_plugin.get(plugin, {})
        found = bool(own) if name is None else own.pop(name, None) is not None
        if name is None:
            own.clear()
        if found:
            self.changed()
        return found

    def find(self, name: str, plugin: str | None = None) -> Contribution:
        """Return the one called `name`, which may be `plugin:name`.

        Raises NotFoundRefused when there is none, or several plugins have one of this name; its text lists those there
        are.
        """
        owner, colon, short = name.partition(":")
        if colon and plugin is None:
            plugin, name = owner, short
        found = [own[name] for of, own in self._by_plugin.items() if name in own and plugin in {None, of}]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(each.full_name for each in found))
            raise NotFoundRefused(f"several plugins have a {self.kind} {name!r}; name one of {names}")
        of = f" of {plugin!r}" if plugin else ""
        names = ", ".join(sorted(each.full_name for each in self)) or "none"
        raise NotFoundRefused(f"there is no {self.kind} {name!r}{of}; there are: {names}")


def as_tool_result(value: Any) -> ToolResult:
    """Return a handler's result as a ToolResult: text as output, everything else as data too."""
    if isinstance(value, ToolResult):
        return value
    if isinstance(value, str):
        return ToolResult(success=True, output=value)
    if value is None:
        return ToolResult(success=True)
    data = freeze(returned_data(value))
    message = data.get("message") if isinstance(data, dict) else None
    return ToolResult(success=True, output=message if isinstance(message, str) else encode(data).decode(), data=data)

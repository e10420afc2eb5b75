"""Events, tools, actions and what else a plugin asks of its host, in every placement."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from ally_plugins import ArgumentsError, NotFoundRefused, ToolCallError, hookimpl
from ally_plugins.policy.budget import Limits
from tests.kit.placements import Placed, call, collect_events, records_of
from tests.kit.waiting import go


def test_an_event_of_its_own_is_emitted_under_its_name(placed: Placed) -> None:
    data = {"a": [1, None, True, 0.5, {"ünï": "\n"}], "b": {}}

    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}) as host:
            events = collect_events(host)
            host.session("s")
            receipt = await call(host, "emit_event", "news", data)
            await call(host, "emit_event", "p:bare")
            own = [event for event in events if event.type.startswith("p:")]
            assert [(event.type, event.data, event.origin) for event in own] == [
                ("p:news", own[0].data, ("p",)), ("p:bare", {}, ("p",)),
            ]  # fmt: skip
            assert orjson.loads(orjson.dumps(own[0].data)) == data
            assert receipt == {"returned": {"id": own[0].id, "offset": own[0].seq, "state": "recorded"}}
            announced = [event for event in events if event.type == "PLUGIN_EVENT_EMITTED"]
            assert [(e.plugin_name, e.event_type, e.parent_id) for e in announced] == [
                ("p", "p:news", own[0].id), ("p", "p:bare", own[1].id),
            ]  # fmt: skip
            assert host.plugins["p"].counts.emitted == 2

    go(main())


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["TOOL_CALL_END"], "type", "'TOOL_CALL_END' is a type of the host; expected a name of the plugin's own"),
        (["other:news"], "type", "'p' emits only under its own name, 'p:...'"),
        (["no good"], "type", "event type is 'no good'; expected 1 to 64 letters"),
        (["news", [1]], "data", "data is of the type list; expected a dict"),
        (["news", {"deep": {"er": "x" * 70_000}}], None, "event_bytes"),
    ],
)
def test_an_event_that_is_not_acceptable_is_refused(
    arguments: list[Any], field: str | None, words: str, placed: Placed
) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}) as host:
            host.session()
            refused = await call(host, "emit_event", *arguments)
            assert refused["raised"] == ("ValidationRefused" if field else "BudgetRefused")
            assert refused.get("field") == field
            assert words in refused["text"] + str(refused.get("budget"))

    go(main())


def test_what_json_cannot_say_is_refused_in_the_same_words(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Odd")}) as host:
            host.session()
            result = await host.call_tool("unsayable", plugin="p")
            expected = "expected a plain string, finite number, boolean, None, list or dict"
            assert [(each["raised"], each["field"], each["text"]) for each in result.data] == [
                ("ValidationRefused", "data", f"data.it is nan; {expected}"),
                ("ValidationRefused", "data", f"data.it is of the type object; {expected}"),
                ("ValidationRefused", "data", "data has a key that is of the type int; use plain strings"),
                ("ValidationRefused", "content", "content has a lone surrogate at 0; expected text that UTF-8 can say"),
                ("ValidationRefused", "content", "content is of the type bytes; expected a string"),
                ("ValidationRefused", "metadata", f"metadata.it is of the type set; {expected}"),
                ("ValidationRefused", "arguments", f"arguments.it is of the type set; {expected}"),
            ]
            counted = len(result.data) if placed.placement.sends_anything else 0
            assert host.plugins["p"].counts.refused["validation"] == counted

    go(main())


def test_nothing_is_granted_by_default_and_each_refusal_names_the_grant_and_the_command(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller", ["tools"])}) as host:
            host.session("s")
            wanted = {
                ("add_message", "user", "x"): "add_message:user",
                ("emit_event", "news"): "emit_event",
                ("get_context",): "get_context:messages",
                ("request_action", "compact"): "request_action:compact",
                ("register", "action", "double"): "actions",
                ("start", "wait"): "tasks",
            }
            for (method, *arguments), permission in wanted.items():
                if method in {"register", "start"}:
                    result = await host.call_tool(method, {"how": arguments[-1]}, plugin="p")
                    refused = orjson.loads(orjson.dumps(result.data))
                else:
                    refused = await call(host, method, *arguments)
                assert refused == {
                    "raised": "PermissionRefused",
                    "text": f"'p' is not granted {permission!r}; the operator grants it with "
                    f"`ally-plugins grant p {permission}`",
                    "reason": "permission",
                    "plugin": "p",
                    "permission": permission,
                    "command": f"ally-plugins grant p {permission}",
                }
            assert host.plugins["p"].counts.refused == {"permission": len(wanted)}
            assert {r.data["permission"] for r in await records_of(host, "refusal")} == set(wanted.values())

    go(main())


def test_what_is_declared_and_not_granted_is_left_out_and_the_rest_works(placed: Placed) -> None:
    manifest = """
        [permissions]
        tools = { reason = "r" }
        actions = { reason = "r" }
        request_action = { actions = ["compact", "other:act"], reason = "r" }
    """

    async def main() -> None:
        plugins = {
            "none": placed("offers:Offers", [], manifest=manifest),
            "tools": placed("offers:Offers", ["tools"], manifest=manifest),
            "p": placed("calls:Silent", ["tools", "request_action:other:act"], manifest=manifest),
            "other": placed("offers:Acts"),
        }
        async with placed.host(plugins) as host:
            assert {plugin.state for plugin in host.plugins.values()} == {"running"}
            assert {each.plugin.name for each in host.tools} == {"tools", "p", "other"}
            assert {each.plugin.name for each in host.actions} == {"other"}
            assert host.plugins["none"].counts.refused["permission"] == 8
            host.session("s")
            asked = (await host.call_tool("ask", {"action": "other:act"})).data
            assert asked["returned"]["number"] == 1
            refused = (await host.call_tool("ask", {"action": "compact"})).data
            assert refused["permission"] == "request_action:compact"

    go(main())


def test_tools_and_actions_are_offered_taken_back_and_described_alike(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Offers")}) as host:
            host.session()
            offered = {each.spec.name: each.spec for each in [*host.tools, *host.actions]}
            assert set(offered) == {"look", "measure", "tidy", "add", "drop", "drop_again", "add_wrong", "pick"}
            measure = offered["measure"]
            assert measure.description == "Measure a thing."
            assert (measure.timeout, measure.visible_to) == (7.0, ("coder",))
            assert orjson.loads(orjson.dumps(measure.schema)) == {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "where it lies"},
                    "depth": {"type": "integer", "default": 1},
                },
                "required": ["path"],
                "additionalProperties": False,
            }
            assert (offered["tidy"].kind, offered["tidy"].agent) == ("action", True)
            receipt = await host.call_tool("add")
            assert receipt.data["id"] == "p:later"
            assert (await host.call_tool("later", {"number": 2})).data == 3
            twice = await host.call_tool("add")
            assert (twice.data["raised"], twice.data["field"]) == ("ValidationRefused", "name")
            assert twice.data["text"] == "'p' has a tool 'later' already; unregister it first"
            assert (await host.call_tool("later", {"number": 3})).data == 4
            await host.call_tool("drop")
            with pytest.raises(NotFoundRefused, match="there is no tool 'later'"):
                await host.call_tool("later", {"number": 2})
            gone = await host.call_tool("drop_again")
            assert (gone.data["raised"], gone.data["text"]) == (
                "NotFoundRefused", "'p' has no tool or action 'later'",
            )  # fmt: skip
            for wrong in (await host.call_tool("add_wrong")).data:
                assert wrong["raised"] == "ValidationRefused"
            kept = [
                (r.kind, r.ref) for kind in ("registration", "unregistration") for r in await records_of(host, kind)
            ]
            assert ("registration", "p:later") in kept
            assert ("unregistration", "p:later") in kept

    go(main())


def test_arguments_are_checked_before_anything_runs(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Offers")}) as host:
            session = host.session()
            with pytest.raises(ArgumentsError) as wrong:
                await host.call_tool("measure", {"depth": "deep"})
            assert wrong.value.tool == "measure"
            assert wrong.value.problems == (
                "arguments.depth: expected integer, found string", "arguments: 'path' is a required property",
            )  # fmt: skip
            with pytest.raises(ArgumentsError) as validated:
                await host.call_tool("pick", {"size": {"width": -1}})
            assert validated.value.tool == "pick"
            with pytest.raises(ArgumentsError):
                await session.request_action("tidy", {"what": 5})
            assert (await host.call_tool("pick", {"size": {"width": 2}, "colour": "red"})).output == "2 Colour.RED"
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_a_tool_returns_text_data_a_result_or_nothing(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Returns")}) as host:

            async def returned(how: str) -> tuple[Any, ...]:
                result = await host.call_tool("give", {"how": how})
                in_thread = await host.call_tool("give_in_thread", {"how": how})
                assert result == in_thread
                return result.success, result.output, result.error, orjson.loads(orjson.dumps(result.data))

            assert await returned("text") == (True, "a text", None, None)
            assert await returned("nothing") == (True, "", None, None)
            assert await returned("result") == (False, "out", "no", {"a": [1]})
            assert await returned("message") == (True, "said", None, {"message": "said", "n": 1})
            assert await returned("unsuccessful") == (True, '{"success":false}', None, {"success": False})
            assert await returned("tuple") == (True, "[1,[2]]", None, [1, [2]])
            assert await returned("number") == (True, "0.5", None, 0.5)

    go(main())


WAYS_TO_FAIL = {
    "error": "ValueError: a broken thing",
    "exit": "SystemExit: 3",
    "refused": "NotFoundRefused: no session 'nowhere' is open",
    "tool": "ToolCallError: the file is not there",
}


def test_a_tool_that_fails_says_what_it_may_and_is_counted(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Returns")}) as host:
            for how, words in WAYS_TO_FAIL.items():
                with pytest.raises(ToolCallError) as failed:
                    await host.call_tool("give", {"how": how})
                assert (failed.value.tool, failed.value.plugin) == ("give", "p")
                if how in {"refused", "tool"}:  # texts that are meant for others
                    assert str(failed.value) == f"'give' of 'p' failed with {words}"
                else:
                    assert str(failed.value).startswith(f"'give' of 'p' failed with {placed.raised(words)}")
            assert host.plugins["p"].counts.crashes == 3  # a refusal is none
            assert [r.data["hook"] for r in await records_of(host, "crash")] == ["give"] * 3

    go(main())


class HostActions:
    """The host's own action, and one that fails."""

    @hookimpl
    def ally_request_action(self, request: Any) -> Any:
        if request.action == "fail":
            raise OSError("the host's own trouble")
        return (
            {"did": request.action, "by": request.requested_by, **request.arguments}
            if request.action == "compact"
            else None
        )


def test_actions_of_the_host_and_of_other_plugins_are_carried_out(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("calls:Caller"), "other": placed("offers:Acts")}
        options = {"actions": ["compact", "fail"], "implementation": HostActions()}
        async with placed.host(plugins, **options) as host:
            events = collect_events(host)
            session = host.session("s")
            own = await call(host, "request_action", "compact", {"n": [1]})
            assert own == {"returned": {"did": "compact", "by": "p", "n": [1]}}
            other = await call(host, "request_action", "other:act", {"number": 2})
            assert other == {"returned": {"number": 2, "session": "s", "list": [1, 2]}}
            assert await session.request_action("act", {"number": 3}) == {
                "number": 3, "session": "s", "list": (1, 2) if placed.placement.keeps_python_values else [1, 2],
            }  # fmt: skip
            failures = {
                ("other:act", ("number", "x")): ("ArgumentsError", "act", None),
                ("other:fails", None): ("ToolCallError", "fails", "other"),
                ("other:slow", None): ("ToolCallError", "slow", "other"),
                ("fail", None): ("ToolCallError", "fail", None),
                ("other:nothing", None): ("NotFoundRefused", None, None),
                ("nothing", None): ("NotFoundRefused", None, "p"),
            }
            for (action, given), (raised, tool, plugin) in failures.items():
                answer = await call(host, "request_action", action, dict([given] if given else []), timeout=0.5)
                assert (action, answer.get("raised")) == (action, raised)
                assert (action, answer.get("tool"), answer.get("plugin")) == (action, tool, plugin)
            wrong = await call(host, "request_action", "compact", timeout=-1)
            assert (wrong["raised"], wrong["field"]) == ("ValidationRefused", "timeout")
            assert wrong["text"] == "timeout is -1; expected seconds, more than 0"
            asked = [e for e in events if e.type == "PLUGIN_ACTION_REQUESTED"]
            assert [(e.plugin_name, e.action, e.requested_by, e.origin) for e in asked[:3]] == [
                ("host", "compact", "p", ("p",)), ("other", "other:act", "p", ("p",)), ("other", "act", "person", ()),
            ]  # fmt: skip
            ends = [r.data["state"] for r in await records_of(host, "action_end")]
            assert ends == ["done", "done", "done", *["failed"] * (len(ends) - 3)]

    go(main())


def test_calls_in_flight_are_bounded(placed: Placed) -> None:
    async def main() -> None:
        limits = Limits(calls_in_flight=2)
        plugins = {"p": placed("calls:Odd", limits=limits), "other": placed("offers:Acts")}
        async with placed.host(plugins) as host:
            host.session()
            result = await host.call_tool("three_at_once", plugin="p")
            refused = [each for each in result.data if "raised" in each and each["raised"] == "BudgetRefused"]
            assert [(each["budget"], each["plugin"]) for each in refused] == [("calls_in_flight", "p")]

    go(main())


def test_def_hooks_and_tools_make_the_same_calls_by_blocking(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host(
            {"p": placed("calls:Caller", ["tools", "add_message:user", "get_context:focus"])}
        ) as host:
            session = host.session("s", focus="/home")

            async def blocking(method: str, *arguments: Any, **keywords: Any) -> Any:
                given = {"method": method, "arguments": list(arguments), "keywords": keywords}
                return orjson.loads(orjson.dumps((await host.call_tool("call_blocking", given)).data))

            answer = await blocking("add_message", "user", "hello", key="k")
            assert answer == await call(host, "add_message", "user", "hello", key="k")
            assert await blocking("get_context") == await call(host, "get_context")
            assert await blocking("emit_event", "news") == await call(host, "emit_event", "news")
            assert [message.content for message in await session.safe_point()] == ["hello"]
            loop = await host.call_tool("block_the_loop")
            assert loop.data["raised"] == "RuntimeError"
            assert loop.data["text"].startswith("a blocking call on the loop's own thread would wait for itself")
            assert (await host.call_tool("from_another_loop")).data["returned"]["state"] == "pending"

    go(main())

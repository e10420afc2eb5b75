"""Compaction: who may request and stop it, what survives it, and its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.events import CompactionComplete, CompactionStart
from ally_plugins.contract.values.verdicts import Deny

from .check import Checks
from .stage import Stage, expect, expect_once, plugin

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import PermissionRequest

__all__ = ["CHECKS"]

CHECKS: Final = Checks()


@CHECKS.add("tells and survives a compaction", "compaction")
async def _a_compaction_is_reported_and_survived(stage: Stage) -> None:
    """Check that a compaction is reported, what a plugin adds survives it, and plugins learn to read anew."""

    async def keep(self: Any) -> None:
        await self.ally.add_message("user", "the port is 8080")

    plugins = {"keeper": plugin(compaction_start=keep)}
    async with stage.play("old words", "done", "again", plugins=plugins, can_compact=True) as play:
        await play.run("first")
        ally = play.host.plugins["keeper"].instance.ally
        before = await ally.get_context(["messages"], session_id=play.session().id)
        await play.session().request_action("compact", {"reason": "to save tokens"})
        await play.run("second")
        text = play.requests[1].text
        expect("old words" not in text, "the model was asked with the words that a compaction had dropped")
        expect("second" in text, "the compaction dropped the person's last message")
        expect_once("[plugin keeper] the port is 8080", text, "the request after the compaction")
        kinds = [type(event) for event in play.events_of(CompactionStart, CompactionComplete)]
        expect(kinds == [CompactionStart, CompactionComplete], f"for the compaction {kinds} was emitted")
        after = await ally.get_context(["messages"], since=before.cursor, session_id=play.session().id)
        expect(after.is_reset, "a plugin that reads on was not told that the conversation had been shortened")
        await play.run("third")
        expect("old words" not in play.requests[2].text, "what a compaction had dropped came back in the next turn")
        expect_once("the port is 8080", play.requests[2].text, "the next turn")
        play.expect_valid()


@CHECKS.add("lets gates stop a compaction", "compaction")
async def _a_compaction_can_be_stopped(stage: Stage) -> None:
    """Check that a permission gate can stop a compaction, and no event of one is emitted."""

    async def decide(self: Any, request: PermissionRequest) -> Deny:  # noqa: ARG001
        return Deny(f"not now: {request.tool_name}")

    plugins = {"guard": plugin(gate_permission=decide)}
    async with stage.play("old words", "done", plugins=plugins, can_compact=True) as play:
        await play.run("first")
        await play.session().request_action("compact")
        await play.run("second")
        expect("old words" in play.requests[1].text, "the conversation was shortened although a gate had denied it")
        events = play.events_of(CompactionStart, CompactionComplete)
        expect(not events, f"{events} was emitted for a compaction that a gate had denied")
        play.expect_valid()

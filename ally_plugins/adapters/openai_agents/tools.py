"""What an agent's tools say before any is called: which reach no gate, and which may wait for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agents import Agent, FunctionTool, Handoff, Tool

__all__ = ["may_interrupt", "may_wait", "ungated", "ungated_tools"]


def ungated_tools(agent: Agent[Any]) -> tuple[str, ...]:
    """Return the names of what the provider runs, or the framework without calling a function: it reaches no gate.

    Those of agents that this one may hand off to or calls as tools are among them, but not such as a function chooses.
    """
    return tuple(sorted({name for each in _reachable(agent, []) for name in ungated(each)}))


def may_interrupt(agent: Agent[Any]) -> bool:
    """Say whether the author of an agent expects runs that end with a question, since a tool of it needs approval."""
    return any(may_wait(tool) for each in _reachable(agent, []) for tool in each.tools)


def may_wait(tool: Tool) -> bool:
    """Say whether a tool may need approval, as the framework has it."""
    return getattr(tool, "needs_approval", False) is not False


def ungated(agent: Agent[Any]) -> Iterator[str]:
    """Yield the names of an agent's own tools that reach no gate."""
    yield from (tool.name for tool in agent.tools if not isinstance(tool, FunctionTool))
    if agent.prompt is not None:
        yield "prompt"  # kept by the provider, with whatever tools it has there


def _reachable(agent: Agent[Any], seen: list[Agent[Any]]) -> list[Agent[Any]]:
    if not any(each is agent for each in seen):
        seen.append(agent)
        handoffs = (_target(each) if isinstance(each, Handoff) else each for each in agent.handoffs)
        as_tools = (getattr(tool, "_agent_instance", None) for tool in agent.tools)
        for each in (*handoffs, *as_tools):
            if isinstance(each, Agent):
                _reachable(each, seen)
    return seen


def _target(handoff: Handoff[Any, Any]) -> object:
    held = getattr(handoff, "_agent_ref", None)
    return held() if held is not None else None

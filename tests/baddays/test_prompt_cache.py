"""A server that caches prompts, and what plugins cost there: one that keeps the contract next to nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_ai import Agent

from ally_plugins import Host, Limits, ModelResponse, PromptPrefixChanged, PromptSection, Replace
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from tests.kit.commands import run_command
from tests.kit.hosts import make_plugin, new_host, setup

from .model_server import ModelServer, Reply

if TYPE_CHECKING:
    from pydantic_ai.models.openai import OpenAIChatModel

    from .conftest import Client

INSTRUCTIONS = "You mend programs. " * 40
TURNS = 6


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """Return a server that caches prompts."""
    with ModelServer(caches_prompts=True) as server:
        yield server
    assert server.refused == []


def look(path: str) -> str:
    """Look at a file."""
    return f"{path} is long: " + "text " * 100


def clock(*, volatile: bool, **config: Any) -> Any:
    """Return a plugin that tells the time in the first section of the prompt."""
    time = itertools.count(1)

    def transform(self: Any, sections: tuple[PromptSection, ...]) -> Replace[Any]:  # noqa: ARG001
        return Replace((PromptSection("clock", f"it is {next(time)} o'clock", volatile=volatile), *sections))

    plugin = make_plugin(ally_transform_system_prompt=transform)
    return setup(plugin, ("transform:system_prompt",), **config)


async def talk(host: Host, model: OpenAIChatModel, server: ModelServer) -> list[Any]:
    """Let an agent work for some steps and return the events of its requests."""
    calls = [Reply(tools=[{"name": "look", "arguments": {"path": f"{n}.txt"}}]) for n in range(TURNS - 1)]
    server.add(*calls, Reply(text="done"))
    events: list[Any] = []
    host.stream.subscribe("MODEL_RESPONSE", events.append)
    host.stream.subscribe("PROMPT_PREFIX_CHANGED", events.append)
    agent = Agent(model, instructions=INSTRUCTIONS, tools=[look], capabilities=[AllyPlugins(host)])
    assert (await agent.run("mend it", conversation_id="c")).output == "done"
    return events


def cached(events: list[Any]) -> float:
    """Return how much of what was sent was read from the cache, without the first request."""
    answers = [each for each in events if isinstance(each, ModelResponse)][1:]
    assert len(answers) == TURNS - 1
    return sum(each.cache_read_tokens or 0 for each in answers) / sum(each.input_tokens or 0 for each in answers)


def changes(events: list[Any]) -> list[PromptPrefixChanged]:
    return [each for each in events if isinstance(each, PromptPrefixChanged)]


def run(client: Client, **plugins: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with new_host(plugins) as host:
            return await talk(host, client.model(), client.server)

    return client.go(main())  # type: ignore[no-any-return]


def test_a_plugin_that_puts_the_time_in_front_is_caught_with_the_tokens_that_the_server_did_not_find(
    client: Client,
) -> None:
    events = run(client, clocky=clock(volatile=False))
    assert cached(events) < 0.2
    told = changes(events)
    assert [(each.plugin_name, each.part, each.changes) for each in told] == [
        ("clocky", "the section 'clock'", n) for n in range(1, TURNS)
    ]
    answers = [each for each in events if isinstance(each, ModelResponse)]
    for each, before, now in zip(told, answers, answers[1:], strict=False):
        assert each.uncached_tokens == (before.input_tokens or 0) - (now.cache_read_tokens or 0)


def test_one_that_declares_it_volatile_is_not_and_the_model_reads_the_time_all_the_same(client: Client) -> None:
    plain = cached(run(client))
    client.server.requests.clear()
    events = run(client, clocky=clock(volatile=True))
    assert changes(events) == []
    assert cached(events) > 0.9 * plain > 0.5
    for n, request in enumerate(client.server.requests, 1):
        assert f"[plugin clocky] it is {n} o'clock" in request.texts[-1]
        assert json.dumps(request.body).count("o'clock") == 1


def test_one_whose_budget_is_spent_costs_no_more(client: Client) -> None:
    events = run(client, clocky=clock(volatile=False, limits=Limits(prompt_changes=1)))
    assert [each.refused for each in changes(events)] == [False, True]
    assert cached(events) > 0.5


@pytest.mark.slow
def test_what_it_cost_stands_in_doctor_info_and_audit(client: Client, home: Any, tmp_path: Any) -> None:  # noqa: ARG001
    async def main() -> None:
        async with new_host({"clocky": clock(volatile=False)}, home=home) as host:
            await talk(host, client.model(), client.server)

    client.go(main())
    (found,) = [
        each
        for each in json.loads(run_command("doctor", "--json").stdout)["findings"]
        if each["topic"] == "prompt cache"
    ]
    assert found["level"] == "warning"
    assert found["text"].startswith("clocky has changed what requests to the model begin with 5 times in a week; ")
    assert found["text"].endswith("tokens were not read from the prompt cache")
    assert (
        found["remedy"]
        == "ask its author for volatile sections, or bound it: prompt_changes = 1 in [plugins.clocky.limits]"
    )
    audit = run_command("audit", "--plugin", "clocky", "--kind", "prompt_prefix").stdout
    assert "the section 'clock' has changed what requests begin with, time 5 in its session" in audit

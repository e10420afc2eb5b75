"""The fixtures `ally_harness` and `ally_agent`, and what a misspelt argument was meant to be.

pytest loads this by its entry point, so nothing heavy is imported before it is used.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pluggy import Result

    from . import BlockingAgentHarness, BlockingHarness

__all__ = ["ally_agent", "ally_harness"]


@pytest.hookimpl(hookwrapper=True)  # `wrapper` is not there in older versions, which authors may have
def pytest_runtest_call() -> Generator[None, Result[None]]:
    """Have a misspelt argument of a value say which one was meant, and skip what an agent does not serve."""
    outcome = yield
    if isinstance(outcome.exception, TypeError):
        from ally_plugins.contract.wording import note_argument

        note_argument(outcome.exception)
    elif type(outcome.exception).__name__ == "NotServedError":  # without the import of what no test may need
        outcome.force_exception(pytest.skip.Exception(str(outcome.exception), _use_item_location=True))


@pytest.fixture
def ally_harness() -> Iterator[Callable[..., BlockingHarness]]:
    """Return what starts a plugin for this test: `ally_harness(LoopGuard, settings={"limit": 2})`.

    It takes the arguments of `PluginHarness` and returns a running `BlockingHarness`, which ends with the test.
    """
    from . import BlockingHarness

    with ExitStack() as running:

        def start(plugin: Callable[..., Any] | str, **options: Any) -> BlockingHarness:
            return running.enter_context(BlockingHarness(plugin, **options))

        yield start


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run name the agents in which tests with `ally_agent` are run."""
    parser.getgroup("ally-plugins").addoption(
        "--ally-agents",
        metavar="NAMES",
        default="all",
        help="Run tests with the fixture ally_agent in these agents alone: claude,langchain,... (all)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with `ally_agent` once in each agent. Raises UsageError for a name that is not known."""
    if "ally_agent" not in metafunc.fixturenames:
        return
    from ally_plugins.author.agents import chosen_agents
    from ally_plugins.contract.values.errors import OperatorError

    try:
        names = [agent.name for agent in chosen_agents(str(metafunc.config.getoption("--ally-agents")))]
    except OperatorError as error:
        raise pytest.UsageError(f"--ally-agents: {error}") from None
    metafunc.parametrize("ally_agent", names, indirect=True)


@pytest.fixture
def ally_agent(request: pytest.FixtureRequest) -> Iterator[Callable[..., BlockingAgentHarness]]:
    """Return what starts a plugin behind the agent that the test is run in: `ally_agent(LoopGuard).turn(...)`.

    It takes the arguments of `PluginHarness` and returns a running `BlockingAgentHarness`, which ends with the test.
    A test is skipped, with the reason, in an agent that is not installed or does not serve what it requires.
    """
    from . import BlockingAgentHarness, NotServedError

    with ExitStack() as running:

        def start(plugin: Callable[..., Any] | str, **options: Any) -> BlockingAgentHarness:
            try:
                return running.enter_context(BlockingAgentHarness(plugin, agent=request.param, **options))
            except NotServedError as error:
                pytest.skip(str(error))

        yield start

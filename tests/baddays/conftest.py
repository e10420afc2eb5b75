"""What bad days are made of: a scripted model on this machine, and the framework's client of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from .model_server import PATIENCE, ModelServer

if TYPE_CHECKING:
    from pydantic_ai.models.openai import OpenAIChatModel

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is encrypted; to load the machine's certificates for each client takes longer than most tests."""

KEY = "sk-secret-of-this-test"
"""The key that the clients are given, and that must stand nowhere but in the requests."""


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """Return a server that runs; what the real API would refuse, or was not scripted, fails the test."""
    with ModelServer() as server:
        yield server
    assert server.refused == []


class Client:
    """Makes the framework's models for a server; their connections end with the loop that `go` runs."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self._clients: list[AsyncOpenAI] = []

    def model(self, *, url: str = "", max_retries: int = 0, **more: Any) -> OpenAIChatModel:
        """Return a model that the server plays; it tries nothing again, unless told to."""
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        plain = DefaultAsyncHttpxClient(verify=NO_TLS)
        client = AsyncOpenAI(base_url=url or self.server.url, api_key=KEY, max_retries=max_retries, http_client=plain)
        self._clients.append(client)
        return OpenAIChatModel("scripted", provider=OpenAIProvider(openai_client=client), **more)

    def go(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on a new loop; what hangs is a failure."""

        async def limited() -> Any:
            try:
                async with asyncio.timeout(2 * PATIENCE):
                    return await main
            finally:
                for client in self._clients:
                    await client.close()

        return asyncio.run(limited())


@pytest.fixture
def client(model_server: ModelServer) -> Client:
    return Client(model_server)


@pytest.fixture
def model(client: Client) -> Callable[..., OpenAIChatModel]:
    return client.model


@pytest.fixture
def go(client: Client) -> Callable[..., Any]:
    return client.go


# The person of the reference agent's tests has bad days too.
from tests.chat.conftest import person  # noqa: E402, F401

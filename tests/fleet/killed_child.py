"""A process of a fleet that is killed, by itself or by a test: `python killed_child.py publish|serve CREDENTIALS`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from nats.js.client import JetStreamContext

from ally_plugins.fleet import event_publisher
from ally_plugins.fleet.credentials import read_credentials
from ally_plugins.fleet.publisher import publish
from tests.fleet.homes_events import folding, subscription
from tests.kit.fleets import serving


def die(*_: Any) -> Any:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), 9)


def arm(point: str) -> None:
    """Have the process end at some point of sending events."""
    if point == "before it is sent":
        event_publisher._Feed._send = die  # type: ignore[method-assign,assignment]
    elif point == "before the answer":
        send = JetStreamContext.publish

        async def publish_and_die(self: Any, subject: str, *arguments: Any, **options: Any) -> Any:
            if not subject.startswith("ally.events."):
                return await send(self, subject, *arguments, **options)
            sending = asyncio.ensure_future(send(self, subject, *arguments, **options))
            await asyncio.sleep(0)
            await self._nc.flush()  # the server has it
            return die(sending)

        JetStreamContext.publish = publish_and_die  # type: ignore[method-assign]
    else:
        event_publisher._Feed._mark = die  # type: ignore[method-assign,assignment]


async def serve(file: Path, folder: Path) -> None:
    """Serve the plugin that writes down what it is given, until killed."""
    async with serving(read_credentials(file), [folding()], folder=folder):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    what, credentials, place = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "serve":
        asyncio.run(serve(credentials, place))
    else:
        arm(sys.argv[4])
        asyncio.run(publish(read_credentials(credentials), place, once=True, subscriptions=lambda: [subscription()]))

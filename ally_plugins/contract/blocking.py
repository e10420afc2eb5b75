"""Façades whose calls block: the methods of another class, as plain methods with the same arguments.

A façade names what it passes on, `add_message = blocking(Ally.add_message)`, and defines how a coroutine is run from
another thread. Types, names of arguments and docstrings are those of the class behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["Facade", "blocking", "on_loop", "passed_on"]

P = ParamSpec("P")
R = TypeVar("R")


class Facade(Protocol):
    """What stands before an object that belongs to an event loop."""

    @property
    def _behind(self) -> Any:
        """The object that calls are passed on to."""

    def _run(self, call: Coroutine[Any, Any, R], /) -> R:
        """Run a coroutine on the loop of that object, and wait for it."""
        ...


def blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Facade, P], R]:
    """Return a coroutine method as a plain one, which waits for what it returns."""

    @wraps(method)
    # By position alone: `facade` stays free as the name of an argument of the method's.
    def call(facade: Facade, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return facade._run(_behind(facade, method)(*args, **kwargs))  # noqa: SLF001 - the façade's other half

    return call


def on_loop(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Facade, P], R]:
    """Return a plain method as one that is called on the loop, to which what it looks at belongs."""

    @wraps(method)
    def call(facade: Facade, /, *args: P.args, **kwargs: P.kwargs) -> R:
        # A coroutine only for the way: what it looks at changes on the loop, and may be read nowhere else.
        async def look() -> R:
            return _behind(facade, method)(*args, **kwargs)

        return facade._run(look())  # noqa: SLF001 - as above

    return call


def passed_on(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Facade, P], R]:
    """Return a plain method as it is, for one that never waits and may be called from any thread."""

    @wraps(method)
    def call(facade: Facade, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return _behind(facade, method)(*args, **kwargs)

    return call


def _behind(facade: Facade, method: Callable[Concatenate[Any, P], R]) -> Callable[P, R]:
    """Return the method of the object behind a façade; a class derived from the one that was named may have its own."""
    found: Callable[P, R] = getattr(facade._behind, method.__name__)  # noqa: SLF001 - as above
    return found

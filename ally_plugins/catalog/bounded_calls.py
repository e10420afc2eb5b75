"""Calls of code that may never return, such as a stranger's or one that waits for a prompt: nobody waits with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define, field

__all__ = ["BoundedCalls"]

T = TypeVar("T")


@define
class BoundedCalls:
    """Runs calls of one kind, each in a thread named `name`. Lives as long as the process."""

    name: str
    late: threading.Thread | None = field(init=False, default=None)
    """The call that was given up last; as long as it has not returned, the next one would only wait behind it."""

    @property
    def is_late(self) -> bool:
        """Whether a call that was given up has still not returned."""
        return self.late is not None and self.late.is_alive()

    def run(self, seconds: float, function: Callable[..., T], *arguments: Any) -> T:
        """Return what a function returns, or raise what it raises; TimeoutError when that takes too long.

        Blocks for `seconds` at most, and not at all while an earlier call is late: then TimeoutError comes at once.
        """
        if self.is_late:
            raise TimeoutError
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(function(*arguments))
            # SystemExit too: a thread ends without a word at it, and the call would count as one that hangs.
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                errors.append(error)

        # A daemon: the program may end while it still waits. Not of an executor, whose threads are joined at the end.
        thread = threading.Thread(target=work, name=self.name, daemon=True)
        thread.start()
        thread.join(seconds)
        # By what has come and not by `is_alive`: a call that ends just past its time has a result, and is not late.
        if errors:
            raise errors[0]
        if not results:
            self.late = thread
            raise TimeoutError
        return results[0]

"""The error of a turn as one sentence with the way out. The framework's texts may quote keys: mask the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic_ai import exceptions

from .cut_answers import AnswerCutError

__all__ = ["error_text"]

_CHARS: Final = 300
"""Characters of a server's message: some of them send a whole page of HTML."""
_READERS: Final = ("pydantic_ai.models.", "openai.", "anthropic.", "google.")
"""Modules that parse answers: the framework's models, and the clients of the most used providers."""
_NO_END: Final = "ended without a `finish_reason`"
"""What the framework says of a stream without an end."""
_ANOTHER: Final = "or use another model (--model offline needs none)"


def error_text(error: BaseException) -> str:
    """Return what an error of a run means for the person, as one line."""
    for kind, describe in _KINDS:
        if isinstance(error, kind):
            return describe(error)
    named = f"{type(error).__name__}: {_first_line(str(error))}".removesuffix(": ")
    if _comes_from_reading(error):
        return f"the model server answered what cannot be read ({named}); try again, {_ANOTHER}"
    return f"an error in this turn: {named}; the conversation can go on"


def _comes_from_reading(error: BaseException) -> bool:
    """Say whether the code that parses answers of servers raised it: JSON of an unexpected shape."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__", "")).startswith(_READERS)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:_CHARS]


def _detail(error: exceptions.ModelAPIError) -> str:
    """Return the message of the server, in brackets, "" without one."""
    found = _message_in(error.body)
    if found is None:
        found = error.body if isinstance(error.body, str) else ""
    text = _first_line(found)
    return f" ({text})" if text else ""


def _message_in(body: object) -> str | None:
    if isinstance(body, Mapping):
        # OpenAI, and most who copy it, nest the message in `error`; some have the text there itself.
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, Mapping) else inner
        return message if isinstance(message, str) else None
    return None


def _http(error: exceptions.ModelHTTPError) -> str:
    way_out = "try again later" if error.status_code >= 500 or error.status_code == 429 else "see its documentation"  # noqa: PLR2004 - HTTP
    return f"the model server answered {error.status_code}{_detail(error)}; {way_out}, {_ANOTHER}"


def _cut(why: str) -> str:
    return f"the model's answer was cut off: {why}; try again, {_ANOTHER}"


def _failed(error: exceptions.ModelAPIError) -> str:
    if _NO_END in error.message:
        return _cut("the server ended it without a finish reason")
    return f"the model server failed ({_first_line(error.message)}); try again, {_ANOTHER}"


def _limited(error: exceptions.ModelRateLimitError) -> str:
    wait = f" in {error.retry_after:.0f} s" if error.retry_after else " later"
    return f"the model server is asked too much{_detail(error)}; try again{wait}, {_ANOTHER}"


# The first that fits counts. The framework's errors of HTTP are of two classes, a category and ModelHTTPError, so the
# categories come before it; and a timeout is a connection error too.
_KINDS: Final[tuple[tuple[type[BaseException], Callable[[Any], str]], ...]] = (
    (
        exceptions.ModelAuthenticationError,
        lambda error: f"the model server does not take the key{_detail(error)}; set the right one, {_ANOTHER}",
    ),
    (
        exceptions.ModelNotFoundError,
        lambda error: f"the model server knows no {error.model_name!r}{_detail(error)}; check --model and --base-url",
    ),
    (
        exceptions.ModelContextWindowExceededError,
        lambda error: f"the conversation is too long for the model{_detail(error)}; /compact shortens it",
    ),
    (exceptions.ModelRateLimitError, _limited),
    (
        exceptions.ModelTimeoutError,
        lambda error: f"the model server did not answer in time; try again, {_ANOTHER}",  # noqa: ARG005 - as the others
    ),
    (
        exceptions.ModelConnectionError,
        lambda error: f"the model server cannot be reached ({_first_line(error.message)}); start it, {_ANOTHER}",
    ),
    (exceptions.ModelHTTPError, _http),
    (AnswerCutError, lambda error: _cut(error.message)),
    (exceptions.ModelAPIError, _failed),
    (
        exceptions.UsageLimitExceeded,
        lambda error: f"the turn used more than it may ({_first_line(str(error))}); say what to go on with",
    ),
    (
        exceptions.UnexpectedModelBehavior,
        lambda error: (
            f"the model answered what nobody can use ({_first_line(error.message)}); say it again in other words"
        ),
    ),
)

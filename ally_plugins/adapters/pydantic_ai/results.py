"""What a tool returned or raised as plugins see it, and what their transforms made of it as the framework takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_ai.exceptions import ModelRetry, ToolFailed, ToolFailedError, ToolRetryError
from pydantic_ai.messages import ToolReturn, ToolReturnPart, is_multi_modal_content, tool_return_ta
from pydantic_ai.tools import ToolDenied
from pydantic_core import from_json

from ally_plugins.adapters.kit.kept_messages import MARK
from ally_plugins.contract.tools.returned import changed_value, result_of_value, settled_value
from ally_plugins.contract.values.conversation import ToolResult, evolve
from ally_plugins.contract.values.errors import error_text
from ally_plugins.contract.values.shown import shown_text

from .history import item_text, media_of
from .history_repair import mended_return

__all__ = ["ToolOutcome", "output_text"]

_NOTHING_YET: Final = ToolResult(success=True)
"""What plugins were shown before the tool has come to anything."""


class ToolOutcome:
    """The value or failure of one tool call, on its way from the tool to the model.

    With `is_transformed` the model reads what plugins were shown, and not the tool's object again, which may have
    changed since or hold more (a key twice).
    """

    def __init__(self, *, is_transformed: bool) -> None:
        self.failure: Exception | None = None
        self._is_transformed = is_transformed
        self._value: Any = None
        self._before = _NOTHING_YET

    def returned(self, value: Any, judge: Callable[[ToolResult], ToolResult] | None = None) -> ToolResult:
        """Keep what the tool returned, and return it as shown to plugins; `judge` may turn it into a failure."""
        # First: what is shown, kept and sent is then the same text.
        value = mended_return(value)
        self._value = settled(value) if self._is_transformed else value
        result = summary(self._value)
        self._before = result if judge is None else judge(result)
        return self._before

    def failed(self, error: Exception) -> ToolResult:
        """Keep what the tool raised, and return it as shown to plugins."""
        text = failure_text(error)
        mended = shown_text(text)
        self.failure = error if mended == text else with_failure_text(error, mended)
        self._before = ToolResult(success=False, error=mended)
        return self._before

    def restored(self, after: ToolResult) -> Any:
        """Return the tool's value, or raise its failure, as transforms left them: changed data, else the text.

        Raises ToolFailed when the output is withheld: the model reads why.
        """
        before, value = self._before, self._value
        if self.failure is not None:
            text = after.error or ""
            raise self.failure if text == before.error else with_failure_text(self.failure, text)
        if after is before:  # the tool's own object, with all that JSON does not say of it
            return value
        if not after.success and before.success:
            raise ToolFailed(after.error or "the output is withheld")
        if isinstance(value, ToolDenied):
            return dataclasses.replace(value, message=after.error or value.message)
        made = changed_value(before, after)
        return dataclasses.replace(value, return_value=made, content=None) if isinstance(value, ToolReturn) else made


def settled(value: Any) -> Any:
    """Return a value as its JSON has it; media, texts and what JSON cannot say are returned as they are."""
    if isinstance(value, (str, ToolDenied)) or is_multi_modal_content(value):
        return value
    if isinstance(value, ToolReturn):
        # A list of its own: the tool may change the one that it returned.
        content = value.content if value.content is None or isinstance(value.content, str) else [*value.content]
        return dataclasses.replace(value, return_value=settled(value.return_value), content=content)
    if isinstance(value, (list, tuple)) and any(map(is_multi_modal_content, value)):
        return [settled(item) for item in value]
    return settled_value(value, _as_read, from_json)


def summary(value: Any) -> ToolResult:
    """Return a tool's result as the model will read it: as text, and as data where it is not a text.

    Of media it says what they are. Where the data cannot be shown to plugins as they are, `unshown` says why.
    """
    if isinstance(value, ToolDenied):
        return ToolResult(success=False, error=value.message)
    return _summary_of_return(value) if isinstance(value, ToolReturn) else result_of_value(value, _as_read, from_json)


def _summary_of_return(value: ToolReturn[Any]) -> ToolResult:
    kept = value.metadata.get(MARK) if isinstance(value.metadata, dict) else None
    if isinstance(kept, dict) and isinstance(value.return_value, str):  # a plugin's tool
        inner = ToolResult(success=True, output=value.return_value, data=kept.get("data"))
    else:
        inner = summary(value.return_value)
    return evolve(inner, output="\n".join(filter(None, (inner.output, _content_text(value.content)))))


def output_text(value: Any) -> str:
    """Return an agent's output as text."""
    result = summary(value)
    return result.output or result.error or ""


def _content_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    items = content if isinstance(content, Sequence) else (content,)
    return "\n".join(item_text(item) for item in items)


def _as_read(value: Any) -> str:
    """Return a value as JSON, as the framework says it to the model; media, which it sends beside, as what they are."""
    if is_multi_modal_content(value):
        value = media_of(value)
    elif isinstance(value, (list, tuple)) and any(map(is_multi_modal_content, value)):
        value = [media_of(item) if is_multi_modal_content(item) else item for item in value]
    return tool_return_ta.dump_json(value, by_alias=True).decode()


def failure_text(error: BaseException) -> str:
    """Return what went wrong in a tool, as the model reads it where it is given an error."""
    if isinstance(error, ToolRetryError):
        part = error.tool_retry
        return part.model_response_str(wrap_if_error=False) if isinstance(part, ToolReturnPart) else str(error)
    if isinstance(error, ToolFailedError):
        return error.tool_failed.model_response_str(wrap_if_error=False)
    if isinstance(error, (ModelRetry, ToolFailed)):
        return error.message
    if isinstance(error, ValidationError):  # the framework tells the model of it, with what was found
        return error.json(include_url=False, include_context=False)
    return error_text(error)


def with_failure_text(error: Exception, text: str) -> Exception:
    """Return the error with `text` for the model; one whose text the model never reads is returned as it is."""
    if isinstance(error, ToolRetryError):
        return ToolRetryError(dataclasses.replace(error.tool_retry, content=text))
    if isinstance(error, ToolFailedError):
        return ToolFailedError(dataclasses.replace(error.tool_failed, content=text))
    if isinstance(error, ToolFailed):
        return ToolFailed(text)
    return ModelRetry(text) if isinstance(error, (ModelRetry, ValidationError)) else error

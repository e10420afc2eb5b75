"""Answers of a model that were cut off: none of them counts as an end, and no call of one is made.

A server that closes its stream gives no finish reason, as a proxy before it may; one that has reached a limit gives
another reason than the end of the answer. The framework takes both for good where there is text.
"""

# ruff: noqa: ARG002 - the framework's hook is called with all that it has

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelResponse, ToolCallPart

from ally_plugins.contract.values.compat import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.tools import RunContext

__all__ = ["AnswerCutError", "WholeCalls", "why_cut"]

_LIMITS: Final = {
    "length": "it reached the limit of tokens for one answer",
    "content_filter": "the server's content filter ended it",
    "error": "the server had an error",
}


class AnswerCutError(ModelAPIError):
    """A model's answer with tool calls was cut off, so that what they should have been is not known."""


class WholeCalls(AbstractCapability[Any]):
    """Fails a run whose model's answer was cut off amid tool calls: repaired, half a command would be run."""

    @override
    async def after_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        """Return the answer, or raise AnswerCutError."""
        why = _why(response)
        if why is not None and any(isinstance(part, ToolCallPart) for part in response.parts):
            raise AnswerCutError(response.model_name or "", why)
        return response


def why_cut(messages: Sequence[ModelMessage]) -> str | None:
    """Return why the last answer was cut off, None when it was not."""
    last = messages[-1] if messages else None
    return _why(last) if isinstance(last, ModelResponse) else None


def _why(response: ModelResponse) -> str | None:
    if response.finish_reason is None:
        has_end = bool((response.provider_details or {}).get("finish_reason"))  # one that the framework does not know
        return None if has_end else "the server ended it without a finish reason"
    # All other reasons (stop, tool_call) are the end of a whole answer.
    return _LIMITS.get(response.finish_reason)

"""What the texts of a Codex rollout say: who put them there, and how a command ended. Pure functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .content import flatten, text_of
from .json_lines import decode_record

if TYPE_CHECKING:
    from .content import Notes

__all__ = ["exit_code_of", "is_injected", "is_refusal", "persons_texts", "texts_of"]

# Texts that the program puts into messages of the person's role: each in a mark of its own, from its beginning on.
_MARKED: Final = re.compile(r"<([A-Za-z][\w -]{0,63})>.*</\1>", re.DOTALL)
_INJECTED: Final = ("# AGENTS.md instructions", "<environment_context", "<user_instructions", "<turn_aborted")
_EXIT: Final = re.compile(r"\A(?:.{0,400}?\n)??(?:Exit code: |Process exited with code )(-?\d{1,10})\b", re.DOTALL)
_REFUSED: Final = ("exec command rejected by user", "patch rejected by user", "rejected by user")
_TEXTS: Final = frozenset({"input_text", "output_text", "summary_text", "reasoning_text", "text"})


def texts_of(content: Any, notes: Notes) -> list[str]:
    """Return the texts of a content, a placeholder for what is none; those are noted."""
    if type(content) is str:
        return [content]
    if content is None:
        return []
    if type(content) is not list:
        notes.wrong("content", content, "a text or a list of blocks")
        return []
    return [_text_of(block, notes) for block in content]


def persons_texts(message: dict[str, Any], notes: Notes) -> tuple[list[str], int]:
    """Return the person's own texts in a message of that role, and how many of its texts the program put there.

    Newer versions say where each text comes from; in older ones only how it begins distinguishes them.
    """
    texts = texts_of(message.get("content"), notes)
    more = message.get("internal_chat_message_metadata_passthrough")
    sources = more.get("content_item_metadata") if type(more) is dict else None
    sources = sources if type(sources) is list and len(sources) == len(texts) else [None] * len(texts)
    own = [text for text, source in zip(texts, sources, strict=True) if _is_persons(source) and not is_injected(text)]
    return own, len(texts) - len(own)


def _is_persons(source: Any) -> bool:
    provenance = source.get("provenance") if type(source) is dict else None
    return type(provenance) is not dict or provenance.get("type", "user") == "user"


def is_injected(text: str) -> bool:
    """Return whether a text in a person's message was put there by the program."""
    start = text.lstrip()
    return start.startswith(_INJECTED) or (start.startswith("<") and _MARKED.fullmatch(start.rstrip()) is not None)


def exit_code_of(output: Any, notes: Notes) -> tuple[str, int | None]:
    """Return the text of an output and the exit code that it names, None where it names none.

    Older versions write an object with `output` and `metadata` as a text, newer ones lines at the top.
    """
    if type(output) is dict and "content" in output:
        success = output.get("success")
        text, code = exit_code_of(output.get("content"), notes)
        return text, (0 if success else 1) if type(success) is bool else code
    text = output if type(output) is str else flatten(_as_texts(output), notes)
    if text.startswith('{"'):
        found = decode_record(text.encode("utf-8", "replace"))
        metadata = found.get("metadata") if type(found) is dict else None
        if type(found) is dict and type(metadata) is dict and type(found.get("output")) is str:
            code = metadata.get("exit_code")
            return text_of(found, "output"), code if type(code) is int else None
    # Only the head: further down, the words are the command's own output.
    named = _EXIT.match(text[:1024])
    return text, int(named[1]) if named is not None else None


def is_refusal(output: str) -> bool:
    """Return whether an output says that the person refused the call."""
    return output.startswith(_REFUSED)


def _text_of(block: Any, notes: Notes) -> str:
    if type(block) is not dict:
        notes.wrong("a content block", block, "an object")
        return ""
    kind = text_of(block, "type") or "block"
    if kind in _TEXTS or (kind == "block" and "text" in block):
        return text_of(block, "text")
    name = kind.removeprefix("input_").removeprefix("output_")
    notes.placeholders.append(name)
    return f"[{name}]"


def _as_texts(output: Any) -> Any:
    if type(output) is not list:
        return output
    return [
        {**block, "type": "text"} if type(block) is dict and text_of(block, "type") in _TEXTS else block
        for block in output
    ]

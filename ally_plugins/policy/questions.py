"""Whether a plugin's question to the person is acceptable, and how it is shown to them."""

from __future__ import annotations

from typing import Any, Final

from ally_plugins.contract.values.errors import ValidationRefused
from ally_plugins.contract.values.inert import for_model, inert, marked_lines, plugin_mark

from .validation import check_text

__all__ = ["MAX_CHOICES", "MAX_CHOICE_BYTES", "MAX_QUESTION_BYTES", "check_question", "shown_choices", "shown_question"]

MAX_QUESTION_BYTES: Final = 2_000  # some twenty lines; who is asked more reads none of it
MAX_CHOICES: Final = 9  # one key each
MAX_CHOICE_BYTES: Final = 80  # a line of them stays a line


def check_question(question: object, choices: Any) -> tuple[str, tuple[str, ...]]:
    """Return a question and its choices. Raises ValidationRefused, which names what was found and is expected."""
    check_text(question, MAX_QUESTION_BYTES, field="question")
    if not isinstance(choices, (list, tuple)) or not 1 <= len(choices) <= MAX_CHOICES:
        found = f"{len(choices)} of them" if isinstance(choices, (list, tuple)) else f"a {type(choices).__name__}"
        raise ValidationRefused(f"choices is {found}; expected a list of 1 to {MAX_CHOICES} texts", field="choices")
    for choice in choices:
        check_text(choice, MAX_CHOICE_BYTES, field="choices")
        if choice != choice.strip() or "\n" in choice or "\t" in choice:
            raise ValidationRefused(
                "choices has a text of more than one line, or with blanks around it", field="choices"
            )
    return str(question), tuple(choices)


def shown_question(plugin: str, question: str) -> str:
    """Return the text as the person reads it: inert, and each line behind the plugin's mark."""
    return "\n".join(marked_lines(plugin_mark(plugin), question))


def shown_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return the choices as the person reads them. Raises ValidationRefused where two of them look the same.

    Letters of one word differ in case only: nobody who types an answer could mean one of the two.
    """
    shown = tuple(inert(for_model(choice)) for choice in choices)
    if len({choice.casefold() for choice in shown}) < len(shown):
        raise ValidationRefused("choices has two texts that look the same; expected different ones", field="choices")
    return shown

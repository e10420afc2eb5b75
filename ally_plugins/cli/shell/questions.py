"""Questions to the person: what counts as an answer, so that silence, haste or a typing error is never a yes.

A question is put only where the person can see it, and an answer counts only when it was typed afterwards. Every
question of the command line and of the chat goes through here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from ally_plugins.contract.values.errors import ConfigError, ConsentError

from .text import echo, is_terminal, preview
from .typeahead import discard, discard_until_rest

if TYPE_CHECKING:
    from .state import State

__all__ = [
    "DISCARDED",
    "LONGEST_SECRET",
    "answer_choices",
    "can_ask",
    "choose",
    "parse_answer",
    "read_secret",
    "require_consent",
    "wrong_answer_text",
]

LONGEST_SECRET: Final = 64 * 1024
"""Characters of one secret; a private key with its chain has 10,000."""

DISCARDED: Final = "what was typed before this question is discarded"

_YES_OR_NO: Final = ("no", "yes")
_STREAMS: Final = {"stdin": "standard input", "stdout": "standard output", "stderr": "standard error"}

_SHOWN: Final = 40
"""Characters of a wrong answer that are repeated: enough to recognise it by."""


def parse_answer(text: str, answers: Sequence[str]) -> str | None:
    """Return which of the answers a text is: the whole word or its first letter, in any case. None for all else."""
    typed = text.strip().lower()
    return next((answer for answer in answers if typed in {answer, answer[0]}), None)


def answer_choices(answers: Sequence[str]) -> str:
    """Return the answers as a question shows them."""
    return " / ".join(f"[{answer[0]}]{answer[1:]}" for answer in answers)


def wrong_answer_text(text: str, answers: Sequence[str]) -> str:
    """Return the message for a text that is none of the answers."""
    found = preview(repr(text.strip()), _SHOWN)
    return f"{found} is no answer, expected {answer_choices(answers)}: the word or its letter"


def require_consent(state: State, question: str, *, is_agreed: bool, refused: str, way_out: str) -> None:
    """Ask for a yes; everything else, and the end of the input, is a no. `is_agreed` is `--yes`: then nobody is asked.

    Blocks until the person answers. With --json the question goes to stderr. Raises ConsentError, whose text begins
    with `refused`: when the person does not agree, and, with the `way_out`, when there is no terminal.
    """
    if is_agreed:
        return
    if unseen := _no_terminal(state):
        raise ConsentError(f"{refused}: consent needs a person, and {unseen} is no terminal; {way_out}")
    answer = _prompt_line(state, f"{question} [y/N] ")
    # Enter alone is a plain no, without the hint at what would have been an answer.
    parsed = parse_answer(answer, _YES_OR_NO) if answer.strip() else "no"
    if parsed == "yes":
        return
    wrong = f"; {wrong_answer_text(answer, _YES_OR_NO)}" if parsed is None else ""
    raise ConsentError(f"{refused}: you did not agree{wrong}")


def choose(state: State, question: str, answers: Sequence[str]) -> str | None:
    """Ask for one of some answers; None for everything else, and where no person sees the question. Blocks."""
    if _no_terminal(state):
        return None
    answer = _prompt_line(state, f"{question} {answer_choices(answers)} ")
    parsed = parse_answer(answer, answers) if answer.strip() else None
    if parsed is None and answer.strip():
        echo(wrong_answer_text(answer, answers), to_stderr=state.as_json)
    return parsed


def can_ask(state: State) -> bool:
    """Return whether a person sees questions and can answer them."""
    return _no_terminal(state) is None


def _no_terminal(state: State) -> str | None:
    """Return which stream is no terminal, None when a person sees the question and can answer it."""
    shown_on = "stderr" if state.as_json else "stdout"
    return next((_STREAMS[name] for name in ("stdin", shown_on) if not is_terminal(name)), None)


def _prompt_line(state: State, question: str) -> str:
    """Show a question and return the line that is typed afterwards, empty where it was not finished with Enter."""
    fd = sys.stdin.fileno()
    if discard_until_rest(fd):
        echo(f"({DISCARDED})", to_stderr=state.as_json)
    discard(fd)  # before it is shown and not after: an answer typed at once is kept, however slow this program is
    echo(question, ends_line=False, to_stderr=state.as_json)
    # Not `input`, which returns a line that ended without Enter like one that was finished with it.
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # the terminal was closed, or Ctrl-D
        echo(to_stderr=state.as_json)
        return ""
    return answer


def read_secret(state: State, name: str) -> str:
    """Ask for a secret without showing it; without a terminal, read it from standard input, without its last newline.

    Blocks. Raises ConfigError when there is none, or one longer than `LONGEST_SECRET`.
    """
    if is_terminal("stdin"):
        # getpass discards what was typed before it asks. With a default, since click repeats a question without one for
        # as long as nothing is typed.
        text = click.prompt(f"{name} (not shown)", hide_input=True, default="", show_default=False, err=state.as_json)
    else:
        # 2 more: room for a line end, and where there is none, for what shows that it is too long.
        text = sys.stdin.read(LONGEST_SECRET + 2).removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"no value for {name!r}, expected it at the prompt or on standard input")
    if len(text) > LONGEST_SECRET:
        raise ConfigError(f"the value for {name!r} has more than {LONGEST_SECRET} characters")
    return str(text)

"""What gates answered and what follows from it: reading one answer, and combining the votes of all.

Fail closed: whatever is not a clear answer counts as deny, with its cause recorded, unless the operator has set
`on_error = "allow"` for that plugin. Asking the plugins, and asking the person, is left to others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from attrs import frozen

from ally_plugins.contract.values.errors import PluginError
from ally_plugins.contract.values.inert import inert, marked_lines
from ally_plugins.contract.values.verdicts import Allow, Ask, Deny, Replace, Verdict, describe_answer

from .validation import find_text_problem

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MAX_REASON_CHARS",
    "Cause",
    "GateOutcome",
    "OnError",
    "Vote",
    "combine",
    "is_sensitive",
    "read_replacement",
    "read_verdict",
    "verdict_name",
    "vote_from_failure",
]

MAX_REASON_CHARS: Final = 2_000  # a reason is read by a person in a dialog and by the model: half a page

Cause: TypeAlias = Literal[
    "verdict",
    "crash",
    "timeout",
    "nonsense",
    "unshown",
    "not_running",
    "quarantined",
    "failed",
    "restarting",
    "waiting",
]
"""Why a vote is what it is: the plugin's own `verdict`, or the failure that stands in for one."""

OnError: TypeAlias = Literal["allow", "deny"]

_NEXT_REASON: Final = re.compile(r";\s*[^\s;:]+:")
"""How the reason of the next plugin would begin; one that holds that itself is quoted."""

_FAILURES: Final[dict[str, tuple[str, str, str]]] = {
    "crash": ("its gate crashed", "see", "info {plugin}"),
    "timeout": ("its gate did not answer in time", "see", "info {plugin}"),
    "nonsense": ("its gate gave no valid verdict", "see", "info {plugin}"),
    "unshown": ("its gate cannot be shown this", "leave that value out, or see", "info {plugin}"),
    "not_running": ("it has a gate and is not running", "see", "info {plugin}"),
    "failed": ("it has a gate and could not start", "see", "info {plugin}"),
    "quarantined": ("it has a gate and is in quarantine", "let it out with", "release {plugin}"),
    "restarting": ("it has a gate and is starting again", "try again soon or see", "info {plugin}"),
    "waiting": ("it has a gate and waits for consent", "give it with", "review"),
}
"""The text for each failure, what helps, and the command for it."""


@frozen(kw_only=True)
class Vote:
    """The result of one plugin's gate. `verdict` None is an abstention; `elapsed_ms` is in milliseconds.

    A `shadow` vote is recorded and not counted. `waives` says that the operator lets an allow of this plugin stand in
    for the host's own question. `detail` describes a failure for the record.
    """

    plugin: str
    verdict: Verdict | None
    cause: Cause = "verdict"
    shadow: bool = False
    elapsed_ms: float = 0.0
    waives: bool = False
    detail: str = ""


@frozen
class GateOutcome:
    """What all votes together decide. `reason` is empty for an allow; `decided_by` names plugins in hook order.

    `waived` says that the host need not ask its own question.
    """

    verdict: Verdict
    reason: str = ""
    decided_by: tuple[str, ...] = ()
    waived: bool = False


def combine(
    votes: Iterable[Vote], *, person_present: bool, unasked: str = "no person is present to agree"
) -> GateOutcome:
    """Combine votes, given in hook order: deny beats ask beats allow, and ask with no person present is deny.

    `unasked` is why, for the reason. An allow that is not the plugin's own verdict (`on_error = "allow"`) never waives
    anything. Without votes the outcome is allow.
    """
    counted = [vote for vote in votes if not vote.shadow]
    if denies := [vote for vote in counted if isinstance(vote.verdict, Deny)]:
        return _refuse(denies)
    if asks := [vote for vote in counted if isinstance(vote.verdict, Ask)]:
        return _ask(asks) if person_present else _refuse(asks, f", and {unasked}")
    allows = [vote for vote in counted if isinstance(vote.verdict, Allow)]
    waived = any(vote.waives and vote.cause == "verdict" for vote in allows)
    return GateOutcome(Allow(), "", _names(allows), waived)


def vote_from_failure(
    plugin: str,
    cause: Cause,
    detail: str = "",
    on_error: OnError = "deny",
    *,
    shadow: bool = False,
    elapsed_ms: float = 0.0,
) -> Vote:
    """Return the vote of a plugin whose gate gave no answer: deny with a reason, or what the operator set instead.

    `detail` is a few words on what happened, such as the error's type and text.
    """
    # The cause stays a failure, so that such an allow waives nothing (`combine`).
    verdict = Allow() if on_error == "allow" else Deny(_failure(plugin, cause, detail))
    return Vote(plugin=plugin, verdict=verdict, cause=cause, shadow=shadow, elapsed_ms=elapsed_ms, detail=detail)


def verdict_name(verdict: Verdict | None) -> str:
    """Return a verdict as the wire and the audit write it; an abstention is `abstain`."""
    return "abstain" if verdict is None else type(verdict).__name__.lower()


def _failure(plugin: str, cause: Cause, detail: str) -> str:
    what, help_, command = _FAILURES[cause]
    command = f"ally-plugins {command.format(plugin=plugin)}"
    text = f"{what} ({detail})" if detail else what
    return text if command in detail else f"{text}; {help_} `{command}`"  # why a plugin is out often names it


def read_verdict(value: Any) -> Verdict | None:
    """Return what a gate answered when it is a verdict with a clean reason, or None for an abstention.

    Raises PluginError, which names what was found and what is expected; such an answer counts as `nonsense`.
    """
    if value is None or type(value) is Allow:
        return value
    # By exact type: the fields of a subclass may be another at the next look.
    if type(value) is Ask or type(value) is Deny:
        _check_reason(value)
        return value
    raise PluginError(
        f"the gate returned {describe_answer(value)}; expected Allow(), Ask(reason), Deny(reason) or None"
    )


def read_replacement(value: Any) -> Replace[Any] | None:
    """Return what a transform answered when it is a Replace, or None for no change. Raises PluginError otherwise.

    The new value itself is for the caller to check, as any other input.
    """
    if value is None or type(value) is Replace:
        return value
    raise PluginError(f"the transform returned {describe_answer(value)}; expected Replace(value) or None")


def _check_reason(verdict: Ask | Deny) -> None:
    kind = type(verdict).__name__
    # Counted in characters for people; the limit in bytes, four a character, is only there to be complete.
    if problem := find_text_problem(verdict.reason, MAX_REASON_CHARS * 4):
        raise PluginError(f"the reason of {kind} {problem}")
    if len(verdict.reason) > MAX_REASON_CHARS:
        raise PluginError(
            f"the reason of {kind} has {len(verdict.reason)} characters; expected {MAX_REASON_CHARS} at most"
        )


def _ask(asks: list[Vote]) -> GateOutcome:
    reason = _reasons(asks)
    return GateOutcome(Ask(reason), reason, _names(asks))


def _refuse(votes: list[Vote], why: str = "") -> GateOutcome:
    reason = _reasons(votes) + why
    return GateOutcome(Deny(reason, sensitive=is_sensitive(votes)), reason, _names(votes))


def is_sensitive(votes: Iterable[Vote]) -> bool:
    """Say whether any plugin, be it one that is only watched, denies what is not to be kept."""
    return any(isinstance(vote.verdict, Deny) and vote.verdict.sensitive for vote in votes)


def _names(votes: list[Vote]) -> tuple[str, ...]:
    return tuple(vote.plugin for vote in votes)


def _reasons(votes: list[Vote]) -> str:
    """Join the reasons, each behind its plugin's name. No part of a line can pass for another plugin's reason."""
    reasons = [_attributed(vote.plugin, vote.verdict.reason) for vote in votes if isinstance(vote.verdict, (Ask, Deny))]
    return ("; " if all(len(lines) == 1 for lines in reasons) else "\n").join("\n".join(lines) for lines in reasons)


def _attributed(plugin: str, reason: str) -> list[str]:
    if _NEXT_REASON.search(reason):
        # Without quotes within, or the quotation could seem to end there.
        reason = '"' + reason.replace('"', "'") + '"'
    return marked_lines(f"{inert(plugin)}:", reason)

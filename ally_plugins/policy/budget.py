"""How much one plugin may do: token buckets by the minute, calls in flight, and sizes.

It only counts. Who calls and whether it is permitted is settled before; the text itself is `validation`'s. Not safe
for several threads at once: the bus calls it from the loop.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final

import attrs
from attrs import define, field, frozen

from ally_plugins.contract.values.errors import BudgetRefused

__all__ = ["Limits", "PluginBudget", "TokenBucket"]

MESSAGES_PER_MINUTE: Final = 30  # design, section 6; Code-Ally's trust model has the same two rates
EVENTS_PER_MINUTE: Final = 600
CONTEXT_READS_PER_MINUTE: Final = 600  # as events: a hook that reads the context at every event it may cause
LOGS_PER_MINUTE: Final = 600  # one line an event; what is above it is a loop, and the log is bounded anyway
REGISTRATIONS_PER_MINUTE: Final = 120  # all tools of one plugin at once (see TOOLS), and no flood of journal records
ACTION_REQUESTS_PER_MINUTE: Final = 30  # as messages: each may set the agent to work
QUESTIONS_PER_MINUTE: Final = 6  # to the person; who is asked more often agrees without reading
TASKS_PER_MINUTE: Final = 60  # one a second; a task is for what takes longer than a hook
CALLS_IN_FLIGHT: Final = 32  # design, section 6
RUNNING_TASKS: Final = 32  # as calls in flight
TOOLS: Final = 128  # model providers take at most 128 functions in a request
MESSAGE_BYTES: Final = 65_536  # design, section 6
EVENT_BYTES: Final = 65_536  # as a message: both are journaled and shown to every subscriber
ARGUMENTS_BYTES: Final = 65_536  # of an action request; as an event, since it is announced by one
SCHEMA_BYTES: Final = 65_536  # of a tool; all of it enters the model's context at every request
PROMPT_CHANGES: Final = 1_000  # in one session; so many requests are rare: out of the box it is counted, not refused
LOG_BYTES: Final = 8_192  # a line with a short traceback

MINUTE: Final = 60.0
TOLERANCE: Final = 1e-4  # of a token: rounding when Unix times are the clock; it stays owed, so it never adds up


def _check_limit(_: object, attribute: attrs.Attribute[int], value: Any) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{attribute.name} is {value!r}; expected a whole number, 0 or more")


def _limit(default: int) -> Any:
    return field(default=default, validator=_check_limit)


@frozen(kw_only=True)
class Limits:
    """The limits of one plugin, under the names that `[plugins.NAME.limits]` of config.toml has.

    0 forbids the thing altogether. Raises ValueError, which names the limit, for anything but a whole number >= 0.
    """

    messages_per_minute: int = _limit(MESSAGES_PER_MINUTE)
    events_per_minute: int = _limit(EVENTS_PER_MINUTE)
    context_reads_per_minute: int = _limit(CONTEXT_READS_PER_MINUTE)
    logs_per_minute: int = _limit(LOGS_PER_MINUTE)
    registrations_per_minute: int = _limit(REGISTRATIONS_PER_MINUTE)
    action_requests_per_minute: int = _limit(ACTION_REQUESTS_PER_MINUTE)
    questions_per_minute: int = _limit(QUESTIONS_PER_MINUTE)
    tasks_per_minute: int = _limit(TASKS_PER_MINUTE)
    calls_in_flight: int = _limit(CALLS_IN_FLIGHT)
    running_tasks: int = _limit(RUNNING_TASKS)
    tools: int = _limit(TOOLS)
    message_bytes: int = _limit(MESSAGE_BYTES)
    event_bytes: int = _limit(EVENT_BYTES)
    arguments_bytes: int = _limit(ARGUMENTS_BYTES)
    schema_bytes: int = _limit(SCHEMA_BYTES)
    log_bytes: int = _limit(LOG_BYTES)
    prompt_changes: int = _limit(PROMPT_CHANGES)


class TokenBucket:
    """A bucket that starts full, holds `capacity` tokens and gains `refill` tokens a second, continuously.

    The first time that it is given starts its clock. A clock that goes back a little adds nothing; one that
    goes back by more than a whole refill is taken as another clock (the next session of a replay) and followed.
    """

    __slots__ = ("_level", "_span", "_then", "capacity", "refill")

    def __init__(self, capacity: float, refill: float) -> None:
        if not (0 <= capacity < inf and 0 <= refill < inf):
            raise ValueError(f"capacity {capacity!r} and refill {refill!r} must be finite numbers, 0 or more")
        self.capacity: Final = capacity
        self.refill: Final = refill
        self._level: float = capacity
        self._span: Final = capacity / refill if refill else inf
        self._then = inf

    def take(self, now: float, n: float = 1) -> float:
        """Take `n` tokens at time `now`, all or none; return 0.0 when taken, else the seconds until there are enough.

        The answer is infinite when there never will be. Raises ValueError for a negative `n`.
        """
        elapsed = now - self._then
        if elapsed > 0:
            level = self._level + elapsed * self.refill
            self._level = level if level < self.capacity else self.capacity  # noqa: FURB136  # `min` costs 60 ns
            self._then = now
        elif elapsed < -self._span or self._then == inf:
            # `inf` before the first time, so that a clock of any origin gives nothing for the time before it.
            self._then = now
        if 0 <= n <= self._level + TOLERANCE:
            self._level -= n
            return 0.0
        return self._wait(now, n)

    def level(self, now: float) -> float:
        """Return how many tokens there are at time `now`, without taking any."""
        return min(self.capacity, self._level + max(0.0, now - self._then) * self.refill)

    def _wait(self, now: float, n: float) -> float:
        if n < 0:
            raise ValueError(f"cannot take {n!r} tokens; expected 0 or more")
        if n > self.capacity or not self.refill:
            return inf
        return (n - self._level) / self.refill + max(0.0, self._then - now)


def _per_minute(limit: int) -> TokenBucket:
    return TokenBucket(limit, limit / MINUTE)


@define(init=False)
class PluginBudget:
    """What one plugin has left. It lives as long as the plugin is loaded; its limits may change meanwhile.

    Every `take_*` and `check_*` raises BudgetRefused, which names the budget, the limit and where to raise it.
    Times are in seconds, of any clock; in a replay the recorded one.
    """

    plugin: Final[str]
    limits: Limits
    in_flight: int
    _buckets: dict[str, TokenBucket]

    def __init__(self, plugin: str, limits: Limits | None = None) -> None:
        self.plugin = plugin
        self.in_flight = 0
        self.change_limits(limits or Limits())

    def change_limits(self, limits: Limits) -> None:
        """Use other limits from now on; the buckets start full again, calls in flight go on."""
        self.limits = limits
        self._buckets = {
            name: _per_minute(value) for name, value in attrs.asdict(limits).items() if name.endswith("_per_minute")
        }

    def take_message(self, now: float) -> None:
        """Count one message to the conversation."""
        self._take("messages_per_minute", now)

    def take_event(self, now: float) -> None:
        """Count one event of the plugin's own; progress of its tasks counts too."""
        self._take("events_per_minute", now)

    def take_context_read(self, now: float) -> None:
        """Count one read of a session's context."""
        self._take("context_reads_per_minute", now)

    def take_log(self, now: float) -> None:
        """Count one log record."""
        self._take("logs_per_minute", now)

    def take_registration(self, now: float) -> None:
        """Count one tool or action registered at run time."""
        self._take("registrations_per_minute", now)

    def take_action_request(self, now: float) -> None:
        """Count one request that the host run an action."""
        self._take("action_requests_per_minute", now)

    def take_question(self, now: float) -> None:
        """Count one question to the person."""
        self._take("questions_per_minute", now)

    def take_task(self, now: float) -> None:
        """Count one started task."""
        self._take("tasks_per_minute", now)

    def begin_call(self) -> None:
        """Count a call as in flight. The caller calls `end_call` exactly once, however it ends, unless this raises."""
        if self.in_flight >= self.limits.calls_in_flight:
            raise self._refuse_count("calls_in_flight", self.in_flight, "wait for one to return")
        self.in_flight += 1

    def end_call(self) -> None:
        """Count a call as returned."""
        self.in_flight = max(0, self.in_flight - 1)

    def check_running_tasks(self, running: int) -> None:
        """Refuse one task more when `running` of the plugin's tasks are at work already."""
        if running >= self.limits.running_tasks:
            raise self._refuse_count("running_tasks", running, "wait for one to end, or cancel one")

    def check_tools(self, registered: int) -> None:
        """Refuse one tool or action more when `registered` of the plugin's are there already."""
        if registered >= self.limits.tools:
            raise self._refuse_count("tools", registered, "register fewer")

    def check_size(self, budget: str, size: int) -> None:
        """Refuse what is larger than the limit; `budget` names it (`message_bytes`), `size` is in bytes of UTF-8."""
        limit: int = getattr(self.limits, budget)
        if size > limit:
            text = (
                f"{self.plugin!r} gave {size} bytes where {budget} allows {limit}; send less, or {self._remedy(budget)}"
            )
            raise BudgetRefused(text, plugin=self.plugin, budget=budget)

    def _take(self, budget: str, now: float) -> None:
        if wait := self._buckets[budget].take(now):
            raise self._refuse_rate(budget, wait)

    def _refuse_rate(self, budget: str, wait: float) -> BudgetRefused:
        limit: int = getattr(self.limits, budget)
        when = "" if wait == inf else f"try again in {wait:.1f} s, or "
        text = f"{self.plugin!r} used up its {budget}, which is {limit}; {when}{self._remedy(budget)}"
        return BudgetRefused(text, plugin=self.plugin, budget=budget, retry_after=None if wait == inf else wait)

    def _refuse_count(self, budget: str, found: int, advice: str) -> BudgetRefused:
        limit: int = getattr(self.limits, budget)
        text = f"{self.plugin!r} has {found} {budget} and the limit is {limit}; {advice}, or {self._remedy(budget)}"
        return BudgetRefused(text, plugin=self.plugin, budget=budget)

    def _remedy(self, budget: str) -> str:
        return f"let the operator raise {budget} in [plugins.{self.plugin}.limits] of config.toml"

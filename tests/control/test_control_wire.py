"""What is kept of the lines between a host and a daemon: little, for as long as somebody looks, and no settings."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from ally_plugins.contract.values.masking import MASK, Secrets
from ally_plugins.runtime.lanes.wire_tap import LONGEST, MOST_BYTES, WATCHED_S, WireTap

if TYPE_CHECKING:
    import pytest

NONE = Secrets()


def test_what_is_kept_has_a_limit_and_what_is_gone_is_counted() -> None:
    tap = WireTap()
    tap.look(0, NONE)
    tap.note([b"first"], is_sent=False)
    assert [line["text"] for line in tap.look(0, NONE)["lines"]] == ["first"]
    tap.note([b"x" * 10 * LONGEST] * 1_000, is_sent=False)
    shown = tap.look(1, NONE)
    assert sum(len(line["text"]) for line in shown["lines"]) <= MOST_BYTES
    assert shown["missed"] == 1_000 - len(shown["lines"])
    assert shown["last"] == 1_001
    assert {(line["bytes"], line["isCut"]) for line in shown["lines"]} == {(10 * LONGEST, True)}
    worst = tap.look(0, NONE)
    assert (
        len(json.dumps({**worst, "lines": [{**line, "text": "\x01" * LONGEST} for line in worst["lines"]]})) < 1024**2
    )


def test_nothing_is_kept_once_nobody_looks_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tap = WireTap()
    assert not tap.is_on
    tap.look(0, NONE)
    tap.note([b"{}"], is_sent=True)
    now[0] += WATCHED_S + 1
    tap.note([b"{}"], is_sent=True)
    assert not tap.is_on
    assert tap.look(0, NONE)["lines"] == []
    tap.note([b"later"], is_sent=True)
    now[0] += WATCHED_S + 1
    assert tap.look(0, NONE)["lines"] == []


def test_a_secret_that_is_cut_off_is_left_out_to_its_beginning() -> None:
    tap = WireTap()
    tap.look(0, NONE)
    tap.note([b"x" * (LONGEST - 5) + b"hunter2-hunter2"], is_sent=False)
    tap.note([b'{"password": "hunter2-hunter2"}'], is_sent=False)
    cut, whole = (line["text"] for line in tap.look(0, Secrets(["hunter2-hunter2"]))["lines"])
    assert cut == "x" * (LONGEST - 5)
    assert whole == f'{{"password": "{MASK}"}}'


def test_settings_are_never_kept_not_even_of_a_line_that_cannot_be_read() -> None:
    tap = WireTap()
    tap.look(0, NONE)
    lines = [
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"settings":{"pin":"1"},"host":"h"}}',
        b'{"method":"initialize","params":{"settings":{"pin":"1"}',
        b'{"method":"initialize"}',
        b'["initialize","1"]',
    ]
    tap.note(lines, is_sent=True)
    shown = [line["text"] for line in tap.look(0, NONE)["lines"]]
    assert json.loads(shown[0])["params"] == {"settings": "(left out)", "host": "h"}
    assert shown[1:] == ["(left out)"] * 3

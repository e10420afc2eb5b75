"""Payloads of coding agents, as they were recorded of the real programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("recorded")


def recorded(agent: str) -> list[dict[str, Any]]:
    """Return the payloads that were recorded of an agent, each with its event and the case."""
    return [json.loads(line) for line in (RECORDED / f"{agent}.jsonl").read_text().splitlines()]

"""Writes `docs/reference/openrpc-*.json` anew: `python docs/_ext/write_openrpc.py`. A test says when that is due."""

from __future__ import annotations

import json
from pathlib import Path

from ally_plugins.wire.schema import openrpc

FOLDER = Path(__file__).parents[1] / "reference"


def texts() -> dict[str, str]:
    """Return the text of each document by the name of its file."""
    return {
        "openrpc-host.json": json.dumps(openrpc("host"), indent=1, ensure_ascii=False) + "\n",
        "openrpc-daemon.json": json.dumps(openrpc("daemon"), indent=1, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")

"""Draws each `.dot` file of the docs as an SVG beside it: `python docs/_ext/draw.py`. A test says when that is due.

Needs `dot` of Graphviz. Where that is not installed, `GRAPHVIZ` names a program that takes its place: DOT on standard
input, SVG on standard output. The digest of the text stands in the picture, since two versions draw it differently.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parents[1]


def mark(text: str) -> str:
    """Return the comment by which a picture says which text it was drawn of."""
    return f"<!-- drawn of sha256 {hashlib.sha256(text.encode()).hexdigest()} -->"


def draw(text: str) -> str:
    """Return the SVG of a graph. Raises CalledProcessError when it is none, FileNotFoundError without the program."""
    program = shlex.split(os.environ.get("GRAPHVIZ", "dot -Tsvg"))
    svg = subprocess.run(program, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own
    drawn = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)
    return f"{mark(text)}\n{drawn.strip()}\n"


if __name__ == "__main__":
    for source in sorted(FOLDER.rglob("*.dot")):
        source.with_suffix(".svg").write_text(draw(source.read_text("utf-8")), "utf-8")

"""`docs`: the pages of the documentation that this version came with."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import columns, echo, echo_pages, paint, preview, print_json
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import describe, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ally_plugins.cli.shell.state import State

__all__ = ["docs"]

_SECTIONS: Final = ("", "tutorial", "how-to", "reference", "explanation")
"""The folders of pages, in the order in which a reader needs them."""

_FOR_SPHINX: Final = re.compile(
    r"^```\{toctree\}\n.*?^```\n+|^<!-- (?:generated:|end of) [^\n]* -->\n+", re.MULTILINE | re.DOTALL
)
"""What a reader of the text has no use for."""

_INCLUDED: Final = re.compile(r"^```\{literalinclude\} (?P<file>[\w.-]+)\n.*?^```$", re.MULTILINE | re.DOTALL)
_SHOWN: Final = 30
"""Sections that a search lists for people: about what two screens hold. With --json all are there."""


@attrs.frozen
class _Page:
    name: str
    path: Path

    def text(self) -> str:
        """Return the Markdown, without what only Sphinx reads and with the files that it includes."""
        text = _FOR_SPHINX.sub("", self.path.read_text(encoding="utf-8"))
        return _INCLUDED.sub(lambda found: f"```text\n{self._beside(found['file'])}```", text)

    def facts(self) -> dict[str, Any]:
        """Return what `--json` says of the page: `html` is for a browser, where somebody has built it."""
        html = self.path.parents[self.name.count("/")] / "_build" / "html" / f"{self.name}.html"
        shown = str(html) if html.is_file() else None
        return {"page": self.name, "title": self.title(), "path": str(self.path), "html": shown}

    def title(self) -> str:
        return self.text().partition("\n")[0].removeprefix("# ").strip()

    def _beside(self, name: str) -> str:
        return (self.path.parent / name).read_text(encoding="utf-8")


@command("docs")
@click.argument("page", required=False)
@click.option("--search", "words", multiple=True, metavar="WORD",
              help="Show the sections that have this word; all of them, if repeated.")  # fmt: skip
@click.option("--path", "wants_path", is_flag=True, help="Print where the page lies; without a PAGE, the folder.")
def docs(state: State, page: str | None, words: Sequence[str], *, wants_path: bool) -> None:
    """Show a PAGE of the documentation of this version, or list the pages. It needs no network.

    A page is named as in the list, or by the last part of that alone. What is printed is Markdown, on a terminal with
    the pager.

    \b
    Example:
      ally-plugins docs
      ally-plugins docs first-plugin
      ally-plugins docs --search quarantine
    """
    if words and (page is not None or wants_path):
        raise click.UsageError("--search looks into all pages; expected it alone")
    if words:
        _search([word.lower() for word in words], as_json=state.as_json)
    elif page is None:
        _list(as_json=state.as_json, wants_path=wants_path)
    else:
        _show(_find(page), as_json=state.as_json, wants_path=wants_path)


def _folder() -> Path:
    """Return the folder of the pages: inside the package that a wheel has left, beside that of a checkout."""
    package = Path(str(files("ally_plugins")))
    for folder in (package / "docs", package.parent / "docs"):
        if (folder / "index.md").is_file():
            return folder
    raise ConfigError(f"{str(package / 'docs')!r} is not there, expected the documentation; install ally-plugins again")


def _pages() -> list[_Page]:
    folder = _folder()
    found = [_Page(path.relative_to(folder).with_suffix("").as_posix(), path) for path in folder.rglob("*.md")]
    return sorted((page for page in found if not page.name.startswith("_")), key=_place)


def _place(page: _Page) -> tuple[int, bool, str]:
    section = page.name.partition("/")[0] if "/" in page.name else ""
    return _SECTIONS.index(section), page.name != "index", page.name


def _find(name: str) -> _Page:
    """Return the page of a name. Raises ConfigError, with the nearest, where there is none or several are."""
    wanted = name.strip("/").removesuffix(".md")
    pages = {page.name: page for page in _pages()}
    if wanted in pages:
        return pages[wanted]
    named = [full for full in pages if full.endswith(f"/{wanted}")]
    if len(named) == 1:
        return pages[named[0]]
    if named:
        raise ConfigError(f"{wanted!r} is the name of several pages, expected one of {', '.join(named)}")
    close = nearest(wanted, [*pages, *(full.rpartition("/")[2] for full in pages)])
    hint = f"did you mean {close!r}? " if close else ""
    raise ConfigError(
        f"no page is called {describe(name)}; {hint}`ally-plugins docs` lists them, `--search WORD` looks into them"
    )


def _list(*, as_json: bool, wants_path: bool) -> None:
    pages = _pages()
    if as_json:
        print_json({"folder": str(_folder()), "pages": [page.facts() for page in pages]})
    elif wants_path:
        echo(str(_folder()))
    else:
        echo_pages(columns([("PAGE", "TITLE"), *((page.name, page.title()) for page in pages)]))


def _show(page: _Page, *, as_json: bool, wants_path: bool) -> None:
    if as_json:
        print_json({**page.facts(), "text": page.text()})
    elif wants_path:
        echo(str(page.path))
    else:
        parts = _sections(page.text())
        echo_pages(line for head, lines in parts for line in ([paint(head, bold=True)] if head else []) + lines)


def _search(words: Sequence[str], *, as_json: bool) -> None:
    """Show the sections with all words; those first whose heading has them. Ends with 1 where there is none."""
    found = [(page.name, *hit) for page in _pages() for hit in _hits(page.text(), words)]
    found.sort(key=lambda hit: not all(word in hit[1].lower() for word in words))
    if as_json:
        print_json({"found": [{"page": name, "heading": heading, "text": line} for name, heading, line in found]})
    for name, heading, line in [] if as_json else found[:_SHOWN]:
        echo(f"{paint(name, bold=True)}  {heading}")
        echo(f"    {preview(line)}")
    if len(found) > _SHOWN and not as_json:
        echo(f"and {len(found) - _SHOWN} more; one more --search WORD narrows it")
    if not found:
        echo(
            f"no section has {' and '.join(map(describe, words))}; `ally-plugins docs` lists the pages", to_stderr=True
        )
        raise click.exceptions.Exit(REFUSED)


def _hits(text: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the heading of each section that has all words, and its first line that has one."""
    for heading, lines in _sections(text):
        folded = "\n".join((heading, *lines)).lower()
        if all(word in folded for word in words):
            said = [line.strip() for line in lines if line.strip()]
            line = next((line for line in said if any(word in line.lower() for word in words)), "\n".join(said[:1]))
            yield heading.lstrip("# "), line


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each heading, as it is written, with the lines below it up to the next one."""
    heading, in_code = "", False
    lines: list[str] = []
    for line in text.splitlines():
        in_code ^= line.lstrip().startswith("```")
        if line.startswith("#") and not in_code:
            yield heading, lines
            heading, lines = line, []
        else:
            lines.append(line)
    yield heading, lines

"""`inspect`: starts the page's server and opens the browser; it ends with the terminal."""

from __future__ import annotations

import os
import threading
import webbrowser
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json
from ally_plugins.contract.values.errors import ConfigError, NotFoundRefused

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State

    from .answers import Answers

__all__ = ["inspect"]


@command("inspect")
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--session", metavar="ID", help="The session to begin with, instead of the one that was active last.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="PORT",
              help="The port to listen at; without it any that is free.")  # fmt: skip
@click.option("--no-open", is_flag=True, help="Only print the link; open no browser.")
def inspect(state: State, /, id_: str | None, session: str | None, port: int, *, no_open: bool) -> None:
    """Show a session in the browser: events, messages, decisions with all votes, states, costs, until Ctrl-C.

    The page is at 127.0.0.1, works without a network, only reads, and lets in who has the link. It follows a session
    that a host has. With ID, of an event, message or decision as `audit` shows them, it begins there. With --json the
    link is printed as JSON.

    \b
    Example:
      ally-plugins inspect
      ally-plugins inspect s-5f0c9a1b2d-1:12
      ally-plugins inspect --session s-5f0c9a1b2d-1 --port 8765 --no-open
    """
    from .answers import Answers
    from .server import PageServer

    answers = Answers(state.home)
    try:
        place = _place(answers, session, id_)
        try:
            server = PageServer(port, answers.answer)
        except OSError as error:
            text = f"the port {port} of this machine cannot be used: {error.strerror or error}"
            raise ConfigError(text, path="--port") from error
        link = server.link + place
        with server, _opened(state.home, link) if not no_open else nullcontext():
            _announce(state, link, server.server_port, is_opened=not no_open)
            with suppress(KeyboardInterrupt):  # Ctrl-C is the way to end it
                server.serve_forever()
    finally:
        answers.close()


def _place(answers: Answers, session: str | None, id_: str | None) -> str:
    """Return the part of the link that says where to begin. Raises NotFoundRefused for what is not recorded."""
    if id_ is not None and session is None:
        session = answers.session_of(id_)
        if session is None:
            hint = "expected a message (m-...), decision (d-...) or event (SESSION:SEQ)"
            raise NotFoundRefused(
                f"the journal has no {id_!r} of a session; {hint}, as `ally-plugins audit` shows them"
            )
    elif session is not None and not answers.has_session(session):
        raise NotFoundRefused(
            f"the journal has no session {session!r}; `ally-plugins audit` shows those that there are"
        )
    named = {"session": session, "id": id_}
    return "".join(f"&{name}={quote(text, safe='')}" for name, text in named.items() if text is not None)


def _announce(state: State, link: str, port: int, *, is_opened: bool) -> None:
    if state.as_json:
        print_json({"link": link, "port": port, "pid": os.getpid()})
        return
    echo(f"the page is at {inert(link)}")
    echo("it opens in your browser" if is_opened else "open it in a browser of this machine")
    echo("whoever has this link can read all that is recorded here; Ctrl-C ends it")


@contextmanager
def _opened(home: Home, link: str) -> Generator[None]:
    """Open the link in the browser, by way of a file that only its owner can read.

    The arguments of a browser are everybody's to see, and those of a start of it by `webbrowser` have the address.
    """
    file = home.run_dir / f"inspect-{os.getpid()}.html"
    home.prepare()
    _write(file, link)
    # In a thread, since one for a terminal would keep this here until it is left.
    threading.Thread(target=webbrowser.open, args=(file.absolute().as_uri(),), daemon=True).start()
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()


def _write(file: Path, link: str) -> None:
    from html import escape

    from ally_plugins.catalog.home.folder import write_atomically

    target = escape(link)
    text = (
        '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="refresh" content="0; url={target}"><title>ally-plugins</title>'
        f'<p><a href="{target}" rel="noreferrer">to the page</a></p>\n'
    )
    write_atomically(file, text.encode(), durable=False, private=True)

"""The hook client as a C program: its source, the table and the numbers of `hook_client`, and how it is compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import ConfigError

from . import hook_client

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PYTHON_CLIENT", "SOURCE", "TABLE", "compile_client", "source_text", "table_text"]

SOURCE: Final = "hook_client.c"
TABLE: Final = "hook_table.h"

PYTHON_CLIENT: Final = "hook-python"
"""Beside the program: the client in Python, which reads the JSON that taking hooks out needs."""

FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")

_COMPILERS: Final = ("cc", "gcc", "clang")
_SECONDS: Final = 60.0
_BESIDE: Final = "or connect with --client python"


def source_text() -> str:
    """Return the program, which needs `TABLE` beside it."""
    return files("ally_plugins.adapters.coding.client").joinpath(SOURCE).read_text("utf-8")


def table_text(**others: str) -> str:
    """Return the header that makes the program answer as `hook_client` does; `others` are defined as texts beside."""
    texts = {
        name: getattr(hook_client, name)
        for name in (
            "PASSES", "EXITS", "SOCKET", "STARTER", "LOG", "LATE", "TOO_LONG", "SILENT", "NONSENSE", "FOREIGN",
            "UNSTARTED", "GONE", "MISSING",
        )
    }  # fmt: skip
    texts |= {"MAGIC": hook_client.MAGIC.decode(), "PYTHON_CLIENT": PYTHON_CLIENT, **others}
    numbers = {
        "MILLISECONDS": hook_client.SECONDS * 1000,
        "HOST_MILLISECONDS": hook_client.HOST_SECONDS * 1000,
        "POLL_MILLISECONDS": hook_client.POLL * 1000,
        "MAX_BYTES": hook_client.MAX_BYTES,
    }
    ways = [
        f"    {{{_quoted(agent)}, {_quoted(event)}, {_quoted(way)}}},"
        for agent, events in hook_client.CLOSED.items()
        for event, way in events.items()
    ]
    return "\n".join([
        "/* Written by `ally-plugins connect`, from the table of the Python client. */",
        *(f"#define {name} {_quoted(text)}" for name, text in texts.items()),
        *(f"#define {name} {int(number)}" for name, number in numbers.items()),
        f"#define KEPT {', '.join(map(_quoted, hook_client.KEPT))}",
        "static const char *const WAYS[][3] = {",
        *ways,
        "};\n",
    ])  # fmt: skip


def _quoted(text: str) -> str:
    assert text.isprintable() and text.isascii()  # noqa: S101, PT018 - all of it stands in `hook_client`
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def compile_client(folder: Path, target: Path) -> None:
    """Compile what lies in a folder as `SOURCE` and `TABLE` into a program. Raises ConfigError where that fails.

    The way out is named: a compiler, or the client in Python, which does the same.
    """
    found = [path for name in _COMPILERS if (path := shutil.which(name)) is not None]
    if not found:
        raise ConfigError(
            f"no C compiler is found: none of {', '.join(_COMPILERS)} is on the PATH; install one (Debian: gcc and "
            f"libc6-dev), {_BESIDE}"
        )
    command = [found[0], *FLAGS, "-o", str(target), SOURCE]
    # Without the dynamic linker, where the machine has its library so: it starts sooner, and no LD_PRELOAD reaches it.
    if not _ran([*command, "-static"], folder)[0]:
        is_done, said = _ran(command, folder)
        if not is_done:
            raise ConfigError(f"{found[0]} cannot compile {str(folder / SOURCE)!r}: {said}; mend it, {_BESIDE}")
    target.chmod(0o700)


def _ran(command: list[str], folder: Path) -> tuple[bool, str]:
    # No variable of the shell that asks may change what is compiled (CPATH, GCC_EXEC_PREFIX, COMPILER_PATH).
    environment = {name: value for name in ("PATH", "TMPDIR") if (value := os.environ.get(name)) is not None}
    try:
        done = subprocess.run(  # noqa: S603 - the machine's compiler
            command, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return False, str(error)
    said = done.stderr.decode(errors="replace").strip()
    first = next((line for line in said.splitlines() if "error" in line), said.partition("\n")[0])
    return done.returncode == 0, first or f"it ends with {done.returncode}"

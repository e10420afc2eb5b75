"""Whether an installed agent keeps to what our hooks say: it is run without a network, and a denied call is looked for.

Nothing of the person's is used but the program: settings, home and model are the trial's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from ally_plugins.contract.values.errors import ConfigError, HostError

from .agents import AGENTS
from .trial import AFTER, BEFORE, DENIED, REASON, SECONDS, SEEN

__all__ = ["Verdict", "verify"]

_ALONE: Final = "--net"
_AS_ROOT_THERE: Final = "--map-root-user"
"""What lets a user who is not root make a network: a user namespace in which it is."""

_NUMBER: Final = re.compile(r"\d+\.\d+\.\d+")
"""A version, beside which agents warn of this and that."""

_HINTS: Final = {
    "opencode": "; it waits for @opencode-ai/plugin, which it fetches where it is run once with a plugin and a network"
}

_MORE: Final = 60.0  # seconds beside the agent's: for the host, and a machine that is busy


@frozen
class Verdict:
    """What came of it: whether the denied call was stopped, in a sentence, and what the agent is and has printed."""

    is_stopped: bool
    why: str
    program: str
    version: str
    said: str


def verify(agent: str) -> Verdict:
    """Run an agent that is installed, and say whether a call that is denied was stopped. Takes some seconds.

    Raises ConfigError where the agent is not found, HostError where this machine gives no network without a way out:
    nothing was run then.
    """
    program = shutil.which(AGENTS[agent].program)
    if program is None:
        raise ConfigError(f"{AGENTS[agent].program!r} is not found; expected it in a folder of PATH")
    alone = _closed_network()
    with tempfile.TemporaryDirectory(prefix="ally-verify-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        if agent == "opencode":
            _share_opencodes_packages(folder)
        about = {"HOME": str(folder), "PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}
        version = _run([*alone, program, *AGENTS[agent].version], about, 30.0)
        module = "ally_plugins.adapters.coding.offline.trial"
        said = _run([*alone, sys.executable, "-m", module, agent, program, str(folder)], about, SECONDS + _MORE)
        try:
            seen = json.loads((folder / SEEN).read_text("utf-8"))
        except (OSError, ValueError):
            raise HostError(f"the trial of {agent} failed: {said.strip()[-500:] or 'it says nothing'}") from None
    stopped, why = _judge(agent, seen)
    numbered = [line.strip() for line in version.splitlines() if _NUMBER.search(line)]
    return Verdict(stopped, why, program, numbered[-1] if numbered else "of an unknown version", seen["said"])


def _judge(agent: str, seen: dict[str, Any]) -> tuple[bool, str]:
    files = set(seen["files"])
    if DENIED in files:
        return False, "THE DENIED CALL RAN: this version of the agent does not keep to what our hooks answer"
    hint = _HINTS.get(agent, "")
    faults = (
        (seen["code"] is None, f"the agent did not end within {SECONDS:g} s, so that nothing is known of it{hint}"),
        (BEFORE not in files, "the agent did not come as far as its first call, so that nothing is known of it"),
        (not seen["asked"], "the agent ran a call and asked no hook of ours"),
        (
            not any(REASON in each for each in seen["results"]),
            "the denied call did not run, but the model did not read why",
        ),
        (AFTER not in files, "the denied call did not run, and nor did one after it that was allowed"),
    )
    fault = next((why for found, why in faults if found), None)
    if fault is not None:
        return False, fault
    return True, "a call that was denied did not run, the model read why, and the calls before and after it ran"


def _closed_network() -> list[str]:
    """Return the command that runs another one in a network without a way out. Raises HostError where there is none."""
    found = shutil.which("unshare") if sys.platform == "linux" else None
    if found is None:
        raise HostError(
            "there is no network without a way out here (it takes Linux, and unshare of util-linux): not run"
        )
    line = [found, _ALONE] if os.geteuid() == 0 else [found, _AS_ROOT_THERE, _ALONE]
    said = _run([*line, "true"], {"PATH": os.environ.get("PATH", "")}, 30.0, only_errors=True)
    if said:
        raise HostError(
            f"this machine gives no network without a way out, and so the agent was not run: {said.strip()}"
        )
    return line


def _share_opencodes_packages(folder: Path) -> None:
    """Lay what opencode fetches for any plugin into a home, since without a network it waits for it without end."""
    own = Path.home() / ".config" / "opencode"
    for target in (folder / ".config" / "opencode", folder / "project" / ".opencode"):
        target.mkdir(parents=True, exist_ok=True)
        for name in ("node_modules", "package.json", "package-lock.json"):
            if (own / name).exists():
                (target / name).symlink_to(own / name)


def _run(line: list[str], environment: dict[str, str], seconds: float, *, only_errors: bool = False) -> str:
    """Return what a command prints; with `only_errors` nothing where it ends well."""
    nothing = subprocess.DEVNULL
    with subprocess.Popen(  # noqa: S603 - the agent that the person names, and ourselves
        line, env=environment, stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # With all that it has started, which may hold its output open.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            said = process.communicate()[0] + b"\nit did not end in time"
    return "" if only_errors and process.returncode == 0 else said.decode("utf-8", "replace")

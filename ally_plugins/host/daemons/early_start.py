"""What plugins in processes need first, started before the host that starts them: the guardian, and what forks from it.

These take as long to start as a host to be imported and to read what is installed, and there are two cores nearly
everywhere. Which plugins there will be is a guess, from the text of `config.toml`: a wrong one costs an idle process.
"""

from __future__ import annotations

import os
import re
import site
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.process_spec import SAFE_PATH, SDK_MODULE, running_python
from ally_plugins.contract.values.errors import CannotExecute
from ally_plugins.runtime.processes.environment import child_environment
from ally_plugins.runtime.processes.launching import is_guardian_possible
from ally_plugins.runtime.processes.protection import forbid_inspection

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.runtime.processes.launcher import Launcher

__all__ = ["start_early"]

_PLACED: Final = re.compile(rb"""^\s*placement\s*=\s*["'](process|sandbox)["']""", re.MULTILINE)
_MAX_CONFIG: Final = 1024 * 1024


def start_early(home: Home) -> Launcher | None:
    """Return a launcher whose guardian starts already, for a host with `protect`; None where none seems to be needed.

    Must be called on the loop that the host will run on. Whoever calls closes it; the host that is given it does too.
    """
    try:
        placed = _PLACED.findall(home.read(home.config_file, _MAX_CONFIG, follow=True) or b"")
    except OSError:  # the host will say what is wrong with it
        return None
    if not placed or not is_guardian_possible():
        return None
    from ally_plugins.runtime.processes.guardian_client import GuardedLauncher
    from ally_plugins.runtime.processes.process import ProcessSpec

    forbid_inspection()  # before a process is started that could look
    launcher, python = GuardedLauncher(), running_python()
    # As for a class of which nothing special is settled.
    search = {"PYTHONPATH": os.environ["PYTHONPATH"]} if os.environ.get("PYTHONPATH") else {}
    base = {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE and b"process" not in placed else {}
    env = child_environment(os.environ, added={SAFE_PATH: "1", **search, **base})
    with suppress(CannotExecute):  # which the first launch says again
        launcher.begin(ProcessSpec(name="", argv=(python, "-m", SDK_MODULE), cwd="/", env=env))
    return launcher

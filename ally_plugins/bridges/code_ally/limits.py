"""Code-Ally's own numbers, which hold for its manifests: times in seconds, sizes in bytes."""

from __future__ import annotations

from typing import Final

from ally_plugins.contract.process_spec import LONGEST_SOCKET_PATH
from ally_plugins.contract.values.events import CODE_ALLY_TYPES

__all__ = [
    "APPROVED_EVENTS",
    "EXECUTABLE_TIMEOUT",
    "GRACE",
    "HEALTH_INTERVAL",
    "HEALTH_RETRIES",
    "HEALTH_TIMEOUT",
    "INSTALL_TIMEOUT",
    "LONGEST_SOCKET_PATH",
    "MAX_OUTPUT",
    "MAX_RESPONSE",
    "MAX_RESTARTS",
    "NOTIFICATION_TIMEOUT",
    "RESTART_DELAY",
    "RPC_TIMEOUT",
    "STARTUP_TIMEOUT",
    "VENV_TIMEOUT",
]

APPROVED_EVENTS: Final = CODE_ALLY_TYPES
"""What `background.events` may list. Everything else is requested with `permissions` or an `ally-plugin.toml`."""

STARTUP_TIMEOUT: Final = 30.0  # from spawn until the socket accepts; `startup_timeout`
GRACE: Final = 5.0  # from SIGTERM to SIGKILL; `shutdown_grace_period`
HEALTH_INTERVAL: Final = 30.0  # `healthcheck.interval`
HEALTH_TIMEOUT: Final = 5.0  # `healthcheck.timeout`
HEALTH_RETRIES: Final = 3  # failures in a row until a restart; `healthcheck.retries`
MAX_RESTARTS: Final = 3  # restarts after crashes, then the daemon stays down
RESTART_DELAY: Final = 5.0  # times the number of the attempt
RPC_TIMEOUT: Final = 30.0  # one call of a daemon's method
NOTIFICATION_TIMEOUT: Final = 5.0  # one event, from connect until it is written
MAX_RESPONSE: Final = 10 * 1024 * 1024  # of one answer
EXECUTABLE_TIMEOUT: Final = 120.0  # one run of a program; `timeout`
MAX_OUTPUT: Final = 10 * 1024 * 1024  # of a program; the rest is cut off with a note
VENV_TIMEOUT: Final = 60.0  # making a virtual environment
INSTALL_TIMEOUT: Final = 300.0  # installing dependencies

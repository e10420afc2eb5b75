"""What one sandboxed process may do, as plain values that pass through JSON; who grants it is the host's."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

__all__ = ["SANDBOXED", "Box"]

SANDBOXED: Final = "ALLY_SANDBOX"
"""The variable by which a program knows that it is in a sandbox; the SDK then says which grant a refusal lacked."""


class Box(NamedTuple):
    """The inside of a sandbox: what is not named here is refused.

    Paths are absolute. A folder stands for all below it. What is missing when the sandbox is entered is left out, but
    for `home` and `tmp`, which must be there. Of `run` and `system` links are followed then. What was granted holds
    none: whoever looked at where it leads saw another place than one that has become a link since.
    """

    home: str
    """Its own folder, which it may write to, and where HOME and XDG_* point."""
    tmp: str
    """Its own temporary folder, which it may write to."""
    read: tuple[str, ...] = ()
    """Files and folders that it was granted to read, contents and names; without links."""
    write: tuple[str, ...] = ()
    """Files and folders that it was granted to read and change, beside `home` and `tmp`; without links."""
    run: tuple[str, ...] = ()
    """Programs, and folders with programs, that it may read and execute: in the same box, so that none may do more."""
    system: tuple[str, ...] = ()
    """Files and folders of the machine's that every program reads."""
    network: bool = False
    """Whether it may use the network: all of it, or nothing."""
    env: dict[str, str] = {}  # noqa: RUF012 - a default of a tuple, which nobody changes
    """Environment variables that are set for it; applied by whoever starts it, and not by `enter`."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Box:
        """Read what `to_json` made. Raises KeyError and TypeError: half a box is none."""
        return cls(
            home=data["home"],
            tmp=data["tmp"],
            read=tuple(data["read"]),
            write=tuple(data["write"]),
            run=tuple(data["run"]),
            system=tuple(data["system"]),
            network=data["network"] is True,
            env=dict(data["env"]),
        )

"""The file with the lines that a person has typed into a chat: a message is written when plugins have seen it."""

from __future__ import annotations

from prompt_toolkit.history import FileHistory

from ally_plugins.contract.values.compat import override

__all__ = ["KeptHistory"]


class KeptHistory(FileHistory):
    """Remembers each line until the chat ends; commands go to the file at once, a message in the form of `keep`.

    What was not sent is never written, so that a credential that a plugin took out of it, or refused, is in no file.
    """

    @override
    def store_string(self, string: str) -> None:
        """Write a command; a message waits."""
        if string.lstrip().startswith("/"):
            super().store_string(string)

    def keep(self, text: str) -> None:
        """Write a message."""
        super().store_string(text)

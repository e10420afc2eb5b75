# What type checkers see of `__init__`, which imports a name when it is first used.

from .reconnect import connect_back as connect_back
from .running import run as run

__all__: list[str]

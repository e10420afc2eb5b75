# What type checkers see of `__init__`, which imports a name when it is first used.

from .interruption import RunInterrupted as RunInterrupted
from .runner import AllyPlugins as AllyPlugins
from .tools import ungated_tools as ungated_tools

__all__: list[str]

# What type checkers see of `__init__`, which imports a name when it is first used.

from .plugin import AllyPlugins as AllyPlugins

__all__: list[str]

# What type checkers see of `__init__`, which imports a name when it is first used.

from .plugin import AgentHooksPlugin as AgentHooksPlugin
from .plugin import interceptor_plugin as interceptor_plugin

__all__: list[str]

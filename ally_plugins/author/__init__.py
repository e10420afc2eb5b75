"""For those who write plugins: a new project, what is wrong with one, and a plugin that runs from its folder.

Nothing here imports a plugin's code; `daemon_checks` and what makes a host (`trial`, `dev_plugin`) run it in a process
of its own. The commands are left to `cli.author`, and tests of a plugin to `testing`.
"""

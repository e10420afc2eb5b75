"""The commands for authors of plugins: a new project, what is wrong with one, the hooks there are, and a plugin tried.

What they do without a terminal is left to `ally_plugins.author`, playing a recording to `replay`.
"""

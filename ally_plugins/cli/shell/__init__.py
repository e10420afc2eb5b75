"""What all commands share: the table of commands, text, exit codes, questions, running hosts as commands see them.

What a command does is left to its own module in `look`, `change`, `play` or `chat`.
"""

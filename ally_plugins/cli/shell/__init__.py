"""What all commands share: the table of commands, text, exit codes, questions, running hosts as commands see them."""

"""Recorded sessions in, events out: readers of what agents wrote down, and the player.

The command is left to `cli.play`.
"""

"""Recorded sessions in, events out: readers of what other agents wrote down, and the player that replays it."""

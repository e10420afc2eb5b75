"""Running the hooks of one plugin: events in order, never two hooks at once, deadlines.

What an answer means is `policy`'s.
"""

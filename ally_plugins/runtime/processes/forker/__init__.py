"""A forker: it has loaded what the processes of plugins need, and forks one for each, in milliseconds.

A program of its own, a child of the guardian (`python -P -m ally_plugins.runtime.processes.forker RUN MODULE... PID`,
Linux), started with the first plugin of the host's own interpreter. It imports the modules that it is named, and then
nothing: no code of a plugin runs in it, it has one thread and no loop, and what it forks has nothing of another plugin.
Its line to the guardian is descriptor 3; see `guardian.forkers` for what is said there.

Between it and each plugin is a keeper (`guardian.keeper`), as there is for every program. What the plugins of one
forker share is what one `exec` would have made anew: the seed of `hash`, and the layout of the address space.

`forking` is its loop, `renewal` makes the child what a fresh interpreter would be, `loaded_files` knows when what it
has loaded has changed on disk.
"""

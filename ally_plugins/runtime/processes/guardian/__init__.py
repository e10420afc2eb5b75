"""The guardian of one host: parent and subreaper of its daemons, so that nothing of them outlives the host.

A program of its own (`python -I -S guardian/__main__.py DESCRIPTOR HOST_PID`, Linux) that imports only the standard
library and this folder, since it must start fast and stay small. It talks to the host over one Unix socket, the life
line: a message is a JSON object, descriptors travel beside it. When the life line ends, or the host's process does, it
kills everything below itself and exits. What a plugin is, when it is restarted and how long it is waited for is left to
the host.

    host to guardian   {"spawn": N, argv, env, cwd, limits, stdio} + descriptors      {"end": N, "grace": seconds}
    guardian to host   {"ready": true}   {"started": N, pid} + pidfd   {"refused": N, stage, errno}
                       {"exited": N, code, signal}   {"ended": N}: nothing of the tree is left

What belongs to a daemon's tree: its main process and all its descendants. What lost its parent (a double fork) becomes
the guardian's child, and is recognised by its session, by the marker variable in the environment that it started with,
or by being left over when there is only one tree. A process that starts a session of its own, loses its parent and
wipes its environment hides from the end of its tree, not from the guardian's: whatever it does, it stays below. Only
what runs as another user (a setuid program) cannot be killed.

Against malice this is no wall: a process of the same user may stop or kill the guardian itself. When it is killed, the
kernel kills the main processes (PR_SET_PDEATHSIG) and the host whatever still carries the marker; the rest is for a
sandbox.

`serving` is its loop, `child_setup` the child between fork and exec, `process_tree` knows processes, `line` the
messages.
"""

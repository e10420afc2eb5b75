"""The guardian of one host: parent and subreaper of its daemons, so that nothing of them outlives the host.

A program of its own (`python -I -S guardian/__main__.py DESCRIPTOR HOST_PID`, Linux) that imports only the standard
library, this folder and the sandbox, since it must start fast and stay small. It talks to the host over one Unix
socket, the life line: a message is a JSON object, descriptors travel beside it. When the life line ends, or the host's
process does, it kills everything below itself and exits. What a plugin is, when it is restarted and how long it is
waited for is left to the host.

    host to guardian   {"spawn": N, argv, env, cwd, limits, stdio, box, fork} + descriptors
                       {"end": N, "grace": seconds}   {"warm": fork}
                       {"remove": folder}: when the host has gone, and all below
    guardian to host   {"ready": true}   {"started": N, pid} + pidfd   {"refused": N, stage, errno}
                       {"unforked": N, reason}: it is started afresh
                       {"exited": N, code, signal}   {"ended": N}: nothing of the tree is left

Each daemon has a keeper, a fork of the guardian or of a forker, that is parent of its main process and subreaper of its
tree: what lost its parent (a double fork) becomes the keeper's child, whatever session it has begun and whatever
environment it has. So a tree is what is below its keeper, and ends as a whole while others live. Only what runs as
another user (a setuid program) cannot be killed.

What is to be in a sandbox has a PID namespace below its keeper, where the kernel lets this user make one: its init is
what the keeper forks, and ends all of the tree with itself.

Against malice this is no wall: a process of the same user may kill the keeper or the guardian itself. When a keeper is
killed, the kernel kills its main process (PR_SET_PDEATHSIG) and gives the rest to the guardian, which kills it. When
the guardian is, each keeper sees it and kills what is below itself. What is left when both are killed, the host finds
by the marker variable in the environment that it started with; the rest is for a sandbox.

`serving` is its loop, `tree` what it knows of one daemon, `keeper` the process between it and a daemon, `namespace`
what a sandboxed one has besides, `forkers` hands on what may be forked, `child_setup` is the child between fork and
program, `process_tree` knows processes, `removal` removes what they leave, `line` the messages.
"""

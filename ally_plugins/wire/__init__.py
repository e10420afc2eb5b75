"""The protocol between host and daemon, without a transport: bytes in, messages out, and back.

Nothing here waits, reads a clock or touches the machine. Both ends use the same code: `connection.Connection` is the
state machine, `framing` and `messages` are what it is made of, `codes` its errors, `handshake` its versions. Connecting
and awaiting is left to `host.daemons.stream_link` and `daemon.peer`.
"""

"""Many homes, one record: what each home has committed goes to a NATS server, and a collector verifies and keeps it.

Plugins that run once for many hosts: `worker` runs them, `shared_plugins` is a host's way there. Durable events for
them go another way: `event_publisher` sends those of one home, `event_consumer` gives a worker's plugin those of all.

`credentials` is who somebody is to the server, `server` writes the server's configuration, `batches` is what goes over
the wire, `publisher` sends a home's chain, `collector` takes those of all homes and `store` keeps them in one file.

Nothing here is imported by a host: a home is published by a process of its own, which reads the journal as `audit`
does. The journal stays the truth, and the server only carries.
"""

"""The commands of a fleet: the server's configuration, a home's publisher, the collector, and how all homes are."""

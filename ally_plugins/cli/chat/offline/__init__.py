"""The offline model: no key, no network, and no understanding; it carries out a small set of requests.

Running the agent around it is left to `cli.chat`.
"""

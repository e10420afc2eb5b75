"""The offline model: no key, no network, and no understanding; it does what a small set of requests says."""

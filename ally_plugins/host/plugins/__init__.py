"""The plugins of a running host: made, started, changed and stopped, and what is made known of them."""

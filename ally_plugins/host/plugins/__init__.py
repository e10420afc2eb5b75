"""The plugins of a running host: made, started, changed and stopped, and their audit.

Which of them may run is decided in `catalog`; running their hooks is left to `runtime.lanes`.
"""

"""The commands that run plugins by themselves: recordings, the demo, and one tool called by hand."""

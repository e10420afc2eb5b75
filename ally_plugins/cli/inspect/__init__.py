"""`inspect`: a page for the browser of this machine, on what a session has recorded and the running hosts say.

`server` lets nobody but its person in, `answers` makes what the page asks for, `timelines` finds it in the journal,
`rows` shows it. `page/` is what the browser runs: modules as they are, without a build, and nothing of others.
"""

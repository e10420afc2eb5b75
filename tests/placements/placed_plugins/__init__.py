"""The plugins that the tests of placements run, inline and in processes: hooks, calls, tools, tasks, lives, chains."""

"""What awaits: clocks, rings, lanes, the watchdog and the dispatch of hooks. Nothing here decides policy."""

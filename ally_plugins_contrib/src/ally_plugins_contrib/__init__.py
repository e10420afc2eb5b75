"""Three plugins that watch, steer and guard an agent; each in a package of its own."""

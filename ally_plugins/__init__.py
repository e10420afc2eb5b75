"""A plugin framework for LLM-agent hosts."""

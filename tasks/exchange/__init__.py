"""Adapters, preferences and judged epochs, out of a run and into one."""

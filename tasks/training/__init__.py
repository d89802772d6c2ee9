"""A training attempt: its plan, the process that does it, and what that reads."""

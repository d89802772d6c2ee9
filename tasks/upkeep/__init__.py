"""What keeps a run whole: audit, heal, prune, and forgetting a person's name."""

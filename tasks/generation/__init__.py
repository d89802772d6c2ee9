"""From prompts to committed shards of trajectories and images."""

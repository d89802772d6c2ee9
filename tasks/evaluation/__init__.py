"""What an adapter does to held-out prompts, by programmed objectives and by people."""

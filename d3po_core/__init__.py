"""The method: denoising as a decision process, and preferences over it. Knows no scheduler of work, store or labels."""

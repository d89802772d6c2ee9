"""The shapes world: synthetic pictures, a classifier for them and the scripts that make the model."""

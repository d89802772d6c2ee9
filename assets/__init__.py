"""Bundled assets: the shapes model and the scripts that make it."""

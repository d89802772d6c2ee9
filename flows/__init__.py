"""Composition: flows chain tasks into epochs; the command line and the services stand beside them."""

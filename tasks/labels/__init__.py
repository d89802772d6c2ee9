"""Judgements: into Label Studio and out of it again, complete or not, and by whom."""

"""Pages, plots and pictures that are derived from what is committed."""

"""Thin Prefect tasks: each joins the method (d3po_core), the run folder (storage) and the outside world."""

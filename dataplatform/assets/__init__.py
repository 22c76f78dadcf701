"""Dagster's side: what turns each declared dataset into an asset."""

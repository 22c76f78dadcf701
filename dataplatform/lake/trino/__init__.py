"""Trino: statements, views and types."""

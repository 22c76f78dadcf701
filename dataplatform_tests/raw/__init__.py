"""Tests of what fetches, lands and records."""

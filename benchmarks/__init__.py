"""Ratios against baselines that run in the same minutes on the same machine."""

"""Vault: its client, what it holds as data, and the rotation of what it holds."""

"""The resources that wrap what assets talk to: one module each."""

"""The Dagster UI as a user sees it, in headless Chromium."""

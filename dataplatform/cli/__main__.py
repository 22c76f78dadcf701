"""`python -m dataplatform.cli`: `dp`, for a process that starts another one of itself."""

from dataplatform.cli import app

app()

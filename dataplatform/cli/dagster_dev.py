"""`dagster dev` without two of its warnings that do not hold where `dp ui` starts it."""

import logging
import warnings
from typing import Final

_NO_NEWS: Final = "Found a dagster instance configuration value"
"""Of a `dagster.yaml` in the current folder: the one in Dagster's home is made of it."""


def quieten() -> None:
    """Keep both warnings off the screen."""
    # Its successor wants a project of its own layout.
    warnings.filterwarnings("ignore", "Function `dev_command` is superseded")
    logging.getLogger("dagster").addFilter(lambda r: not r.getMessage().startswith(_NO_NEWS))


if __name__ == "__main__":
    quieten()
    from dagster._cli import main

    main()

"""What can be wrong with a specification."""


class SpecError(ValueError):
    """A specification that can't be used; the message names file, key, cause and remedy.

    Args:
        where: the file, and the key in it where one is meant.
        cause: what is wrong.
        remedy: what to do.
    """

    def __init__(self, where: str, cause: str, remedy: str) -> None:
        super().__init__(f"{where}: {cause.rstrip('.')}. Remedy: {remedy.rstrip('.')}.")
        self.where = where
        self.cause = cause
        self.remedy = remedy

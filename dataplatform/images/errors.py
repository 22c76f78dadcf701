"""What can go wrong with an image."""


class ImageError(RuntimeError):
    """An image could not be built or pushed; the message names the cause and the remedy."""

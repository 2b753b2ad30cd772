"""What decoding says of a file that is no image, or none that it can use."""


class UnreadableImage(Exception):
    """Why a file cannot be used, in the form `kind: details` or just `kind`."""

"""Errors that a user can correct. Each message names what is wrong, where it is and what to do."""


class RaycrnnError(Exception):
    """The data or the run failed. The message is shown to the user without a stack trace."""

    exit_code = 1


class WriteError(RaycrnnError):
    """A file cannot be written, for example because the disk is full. The run can be resumed once there is space."""


class UsageError(RaycrnnError):
    """The usage or the configuration is wrong, a CSV is missing, or an output directory exists already."""

    exit_code = 2


class StorageError(UsageError):
    """Object storage is missing, does not respond or denies access. The run can be resumed once it responds."""

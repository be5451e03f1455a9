"""The errors a user can mend: each names the culprit, what is wrong with it and what to do."""


class RaycrnnError(Exception):
    """The data or the run failed. The message is shown to the user without a stack trace."""

    exit_code = 1


class WriteError(RaycrnnError):
    """What was to be written could not be, as on a full disk: with room the run can go on."""


class UsageError(RaycrnnError):
    """Usage or configuration is wrong, a CSV is not there, an output directory exists."""

    exit_code = 2


class StorageError(UsageError):
    """Object storage is not there, does not answer or refuses; when it does no more, a run can go on."""

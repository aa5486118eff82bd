"""The error that a user can mend."""


class UserError(ValueError):
    """Bad input: one line that says what was got, what was expected, and what to do.

    The command line prints the message alone and exits with status 2.
    """

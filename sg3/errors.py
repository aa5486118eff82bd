"""The exception for invalid user input."""


class UserError(ValueError):
    """Invalid input. The message is one line: argument, value, what was expected, what to do.

    The command line prints only the message and exits with status 2.
    """

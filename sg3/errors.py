"""The exception for invalid user input, and the warning about loaded files."""


class UserError(ValueError):
    """Invalid input. The message is one line: argument, value, what was expected, what to do.

    The command line prints only the message and exits with status 2.
    """


class NetworkNote(UserWarning):
    """What the user should know about a network file that was loaded, in one line."""

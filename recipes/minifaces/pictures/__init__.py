"""Images of the documentation, each with the command that makes it."""

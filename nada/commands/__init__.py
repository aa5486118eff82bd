"""The command `sg3 adapt`."""

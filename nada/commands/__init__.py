"""Commands of the `sg3` program that adapt networks."""

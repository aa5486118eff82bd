"""The `sg3` program: thin commands around functions of the Python interface."""

"""The `sg3` program: thin commands over functions that Python users can call as well."""

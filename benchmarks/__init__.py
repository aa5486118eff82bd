"""Benchmarks: our operators and networks against the floor of the machine.

Each module of this folder is a benchmark with a function `main(arguments)`. It first checks that
the compared outputs agree, then times both in turns in one process, and prints a table.
"""

"""Measurements: ours beside the floor of the machine, in one process, interleaved.

Each module in this folder is one benchmark with a function ``main() -> None`` that first proves
that the compared outputs agree and then prints its table.
"""

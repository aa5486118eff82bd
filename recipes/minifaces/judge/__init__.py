"""The attribute classifier that nothing is optimised against."""

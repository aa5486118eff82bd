"""Measurements of the bundled models."""

"""Training of the bundled generators."""

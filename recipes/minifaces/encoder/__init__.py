"""Training of the bundled image-text encoders."""

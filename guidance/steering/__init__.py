"""Text-guided optimisation of a latent."""

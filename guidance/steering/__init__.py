"""Text-guided optimization of a latent."""

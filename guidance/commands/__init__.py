"""Commands of the `sg3` program that move latents."""

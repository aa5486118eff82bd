"""A Space for the Hugging Face hub: README.md says how to publish it."""

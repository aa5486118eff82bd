"""The judge: an attribute classifier that no other model is optimized against."""

"""The procedural world: attributes, captions, renderer, datasets."""

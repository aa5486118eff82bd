"""The procedural world: attributes, captions, renderer, data sets."""

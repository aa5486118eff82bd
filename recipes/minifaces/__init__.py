"""The bundled world: captioned cartoon faces, and the models trained on them."""

"""Looking inside generators: layers as pictures, spectra, textures that stick to pixels."""

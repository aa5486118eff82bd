"""Analysis of generators: layer activations, power spectra, texture sticking, charts."""

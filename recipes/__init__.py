"""Complete, documented jobs: `python -m recipes.NAME --help`. No other package imports them."""

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation

"""Complete, runnable, documented jobs; nothing imports them."""

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation

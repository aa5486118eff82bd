"""Tabs of the page in the browser: widgets that drain the iterators of the packages below."""

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation

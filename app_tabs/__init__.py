"""Tabs of the page in the browser: widgets that drain the iterators of the packages below."""

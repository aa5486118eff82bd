"""A static web page that runs exported networks in the browser."""

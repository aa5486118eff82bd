"""Complete, runnable, documented jobs; nothing imports them."""

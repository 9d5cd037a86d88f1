"""One command a file, as Django looks for them."""

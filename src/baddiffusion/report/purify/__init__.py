"""What became of a model that was to be repaired: its receipt in words, as a page, as a table of several."""

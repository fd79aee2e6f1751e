"""The page of a matrix, and its section in the docs."""

"""The page of a reproduction, and its section in the docs."""

"""The page of a sweep, or of several runs held against each other."""

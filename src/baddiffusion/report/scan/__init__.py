"""The page of a scan, and its words."""

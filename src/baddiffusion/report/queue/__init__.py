"""The page of a queue of scans."""

"""Sections of the docs that are made from results files."""

"""Dictionaries saved by the libraries themselves, for tests of the importers."""

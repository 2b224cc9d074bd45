"""Crosscoders in other libraries' formats (docs/exporting.md); one module a library."""

EXPORTS = ("saelens", "dictionary_learning", "sparsify", "circuit-tracer")
"""What `export` writes; each is the module of its name, with a function `write`."""

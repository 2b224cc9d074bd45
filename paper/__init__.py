"""The paper's figures and their controls: `crossproof reproduce`. A module a figure.

A module has `TITLE` and `run(settings) -> Figure`, and writes nothing itself; `publish` writes
numbers, pictures and words. `registry` knows the names.
"""

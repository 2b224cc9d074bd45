"""Theorems of docs/theory as stated, forms that no command uses among them.

What crossproof ships is tested against these, and these against brute force.
"""

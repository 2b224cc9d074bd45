"""Searches for certificates: what they find is believed only once the verifier has checked it."""

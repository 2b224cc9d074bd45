"""Training crosscoders: objectives, the step, the run."""

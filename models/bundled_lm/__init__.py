"""How the bundled TinyStories model is made: text, training, sampling, card."""

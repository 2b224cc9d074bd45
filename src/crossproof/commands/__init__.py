"""The commands behind the command line, a module each; `cli` finds them by name."""

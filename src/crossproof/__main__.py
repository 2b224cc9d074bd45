"""`python -m crossproof`, the way `torchrun -m crossproof` starts it."""

from crossproof.cli import main

if __name__ == "__main__":
    main()

"""`python -m modernbert`, and so `torchrun -m modernbert`."""

from modernbert.cli import main

main()

"""`python -m couple`, and so `torchrun -m couple`: the `couple` command."""

from couple.cli import main

main()

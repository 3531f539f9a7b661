"""`python -m nightcrew`: the same as the command."""

from nightcrew.cli.main import main

main()

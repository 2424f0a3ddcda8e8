"""`python -m idhub.cli`."""

from idhub.cli import main

main()

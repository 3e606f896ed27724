"""`python -m webhookd`: the command line."""

from webhookd.cli import main

main()

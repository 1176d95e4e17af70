"""``python -m ownkey.cli``."""

from ownkey.cli.main import main

main()

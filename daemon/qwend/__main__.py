"""`python -m qwend`, and what the launcher of a checkout runs."""

from qwend.cli import main

main()

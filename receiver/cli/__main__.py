"""`python -m receiver.cli`, which is how `runhook dev` starts its parts."""

from receiver.cli import main

main()

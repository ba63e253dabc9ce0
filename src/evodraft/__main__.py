"""`python -m evodraft`: the command line. Knows nothing else."""

from evodraft.cli import main

main()

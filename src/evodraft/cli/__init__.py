"""The command line. Translates flags and shows results; does not know how anything is decoded, measured or trained.

One file for each command. `app.py` lists the commands and says how a command ends; `options.py` has the flags that
several commands share.
"""

from evodraft.cli.app import main

__all__ = ["main"]

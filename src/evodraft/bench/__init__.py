"""Measures methods and peers side by side. Contains no decoding logic; nothing below the command line imports it.

A **suite** says which prompts are asked under which **conditions**. **Contestants** (methods of this project, and peers
in processes of their own) answer them in turn; `run` notes **items**, checks what was said against the target, and sums
up **rows** with intervals. All of it is one **result**, which `report` shows.
"""

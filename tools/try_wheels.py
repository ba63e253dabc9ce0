"""Installs the wheels of a folder into an environment of their own and runs the demo there, away from the checkout.

    python tools/try_wheels.py dist [--torch-index-url URL]

That environment has what the wheels declare and nothing else, so every module is imported in it too. It lies in a
temporary folder and is deleted at the end. Does not know what the output should be: a command must end with 0.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROJECT = Path(__file__).parents[1]
CONSTRAINTS = PROJECT / "constraints.txt"


def main(arguments: list[str]) -> int:
    """Stops at the first command that fails, and says which one it was."""
    parser = argparse.ArgumentParser(description="Install wheels into a clean environment and run the demo there.")
    parser.add_argument("folder", type=Path, help="folder that holds the wheels")
    parser.add_argument("--torch-index-url", help="where torch comes from; default: pip's own index")
    given = parser.parse_args(arguments)
    wheels = sorted(given.folder.resolve().glob("*.whl"))
    if not wheels:
        print(f"no wheel in {given.folder}; `make build` makes them", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="evodraft-wheels-") as temporary:
        environment = Path(temporary) / "venv"
        print(f"clean environment with {', '.join(wheel.name for wheel in wheels)}", flush=True)
        venv.create(environment, with_pip=True)
        for command in commands(environment, wheels, given.torch_index_url):
            code = subprocess.run(command, cwd=temporary, env=_variables(), check=False).returncode
            if code:
                print(f"exit code {code} from {' '.join(command)}", file=sys.stderr)
                return 1
    print("the wheels install and run in a clean environment")
    return 0


def commands(environment: Path, wheels: list[Path], torch_index_url: str | None) -> list[list[str]]:
    """What is run there, in order: torch is installed as `make setup` does it, then the wheels, then they are tried."""
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    install = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    index = ["--index-url", torch_index_url] if torch_index_url else []
    return [
        [*install, *index, torch_requirement(CONSTRAINTS.read_text(encoding="utf-8"))],
        [*install, "--constraint", str(CONSTRAINTS), *map(str, wheels)],
        [python, "-m", "pip", "--disable-pip-version-check", "check"],
        [python, str(PROJECT / "tools" / "import_all.py")],
        [str(scripts / "evodraft"), "--help"],
        [python, "-m", "evodraft", "demo", "--prompts-per-domain", "1", "--max-new-tokens", "16"],
    ]


def torch_requirement(constraints: str) -> str:
    """The line that pins torch."""
    return next(line for line in constraints.splitlines() if line.startswith("torch=="))


def _variables() -> dict[str, str]:
    """The caller's variables without those that would let another Python's packages in."""
    foreign = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in foreign} | {"HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

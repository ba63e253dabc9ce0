"""What code of this project never does with files and strings that come from elsewhere, checked on its syntax trees.

Each rule is tried twice: on every Python file of the project but its tests, where it must find nothing, and on
snippets, where it must find something. What the rules cannot see (a name looked up with getattr) is left to review. How
hostile files and prompts are dealt with is tested in `unit/runtime/test_load.py` and `test_untrusted_input.py`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from evodraft import LLM, AsyncLLM
from evodraft.assemble import LoadOptions
from evodraft.drafters.base import DrafterContext
from evodraft.runtime.load import load_model

PROJECT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("src", "demo/src", "examples", "benchmarks", "tools")
FILES: Final = sorted(
    file
    for folder in FOLDERS
    for file in (PROJECT / folder).rglob("*.py")
    if not any(part.startswith(".venv") for part in file.relative_to(PROJECT).parts)  # environments of peers
)

BANNED_MODULES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "jsonpickle", "marshal", "shelve"),
        "data that can hold code",
    ),
    "pty": "a shell",
    "commands": "a shell",
    "code": "an interpreter",
    "codeop": "an interpreter",
}
BANNED_CALLS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "execfile"), "runs a string"),
    **dict.fromkeys(("runpy.run_path", "runpy.run_module"), "runs a file"),
    **dict.fromkeys(
        (
            "os.system",
            "os.popen",
            "subprocess.getoutput",
            "subprocess.getstatusoutput",
            "asyncio.create_subprocess_shell",
        ),
        "runs a shell",
    ),
    **dict.fromkeys(
        (
            "yaml.load",
            "yaml.load_all",
            "yaml.full_load",
            "yaml.full_load_all",
            "yaml.unsafe_load",
            "yaml.unsafe_load_all",
        ),
        "builds any object; use yaml.safe_load",
    ),
    **dict.fromkeys(("pandas.read_pickle", "torch.package.PackageImporter", "torch.hub.load"), "runs code of a file"),
    **dict.fromkeys(("torch.serialization.add_safe_globals", "torch.serialization.safe_globals"), "widens torch.load"),
    **dict.fromkeys(("tempfile.mktemp", "os.tempnam"), "a name that another process can take first"),
    "jinja2.Template": "a template outside of the sandbox",
    "jinja2.Environment": "a template outside of the sandbox",
}
# keyword -> the value that it must not have, wherever it is passed
BANNED_VALUES: Final[Mapping[str, object]] = {
    "trust_remote_code": True,
    "weights_only": False,
    "use_safetensors": False,
    "allow_pickle": True,
    "allow_all_kernels": True,
    "shell": True,
    "verify": False,
}
NETWORK: Final = frozenset({"huggingface_hub", "requests", "httpx", "aiohttp", "urllib", "urllib3", "socket", "ftplib"})
# The one module that may fetch a model.
LOADER: Final = "src/evodraft/runtime/load.py"
# (file, words of a complaint) -> why it may
EXCEPTIONS: Final[Mapping[tuple[str, str], str]] = {
    ("src/evodraft/bench/peers/workers/llama_cpp_server.py", "imports socket"): "a free port on 127.0.0.1 for a peer",
    ("tools/import_all.py", "importlib.import_module()"): "it checks that each module of an installed package imports",
}


class Source(NamedTuple):
    """One parsed file, with what its imported names stand for."""

    path: str
    tree: ast.Module
    names: Mapping[str, str]  # as written here -> dotted, as defined there


def parse(path: str, text: str) -> Source:
    tree = ast.parse(text, filename=path)
    return Source(path, tree, dict(_imported(tree)))


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def dotted(source: Source, function: ast.expr) -> str:
    """What a call calls, through aliases: `np.load` -> "numpy.load"."""
    first, *rest = ast.unparse(function).split(".")
    return ".".join((source.names.get(first, first), *rest)).removeprefix("builtins.")


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            yield node, dotted(source, node.func)


def values(call: ast.Call) -> dict[str, object]:
    """Keywords with a literal value; anything else is there as its source text."""
    return {
        keyword.arg: keyword.value.value if isinstance(keyword.value, ast.Constant) else ast.unparse(keyword.value)
        for keyword in call.keywords
        if keyword.arg is not None
    }


# --------------------------------------------------------------------------------
# The rules
# --------------------------------------------------------------------------------


def modules(source: Source) -> Iterator[str]:
    for name in source.names.values():
        root = name.split(".")[0]
        if root in BANNED_MODULES:
            yield f"imports {root}: {BANNED_MODULES[root]}"


def banned_calls(source: Source) -> Iterator[str]:
    for call, name in calls(source):
        if name in BANNED_CALLS:
            yield f"line {call.lineno}: {name}(): {BANNED_CALLS[name]}"
        if name.startswith(("os.exec", "os.spawn")):
            yield f"line {call.lineno}: {name}(): starts a program"
        if name == "importlib.import_module" and not all(isinstance(part, ast.Constant) for part in call.args):
            yield f"line {call.lineno}: {name}(): a name that is computed"


def banned_names(source: Source) -> Iterator[str]:
    """What may not be called may not be handed on either: `from yaml import load`, `map(eval, lines)`."""
    called = {id(call.func) for call, _ in calls(source)}
    for node in ast.walk(source.tree):
        is_reference = isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
        if is_reference and id(node) not in called:
            name = dotted(source, node)  # type: ignore[arg-type]
            if name in BANNED_CALLS or name == "torch.load":
                yield f"line {node.lineno}: {name} is handed on"


def unsafe_values(source: Source) -> Iterator[str]:
    for call, name in calls(source):
        given = values(call)
        for keyword, value in BANNED_VALUES.items():
            if given.get(keyword, None) is value:
                yield f"line {call.lineno}: {name}({keyword}={value})"


def careless_readers(source: Source) -> Iterator[str]:
    """Readers that are safe with the right argument only, which must be written out."""
    for call, name in calls(source):
        given = values(call)
        if name == "torch.load" and given.get("weights_only") is not True:
            yield f"line {call.lineno}: torch.load without weights_only=True"
        if name == "numpy.load" and given.get("allow_pickle", False) is not False:
            yield f"line {call.lineno}: numpy.load with allow_pickle"
        if name.startswith("subprocess.") and given.get("shell", False) is not False:
            yield f"line {call.lineno}: {name} with a shell"
        if name.endswith((".extractall", ".unpack_archive")) and given.get("filter") != "data":
            yield f"line {call.lineno}: {name} without filter='data'"


def trusting_defaults(source: Source) -> Iterator[str]:
    """Parameters and fields, those of the command line too: code of a model runs only if somebody says so."""
    for node in ast.walk(source.tree):
        defaults: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            given = positional[len(positional) - len(node.defaults) :]
            pairs = [*zip(given, node.defaults, strict=True), *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
            defaults = [(argument.arg, default) for argument, default in pairs]
        elif isinstance(node, ast.AnnAssign):
            defaults = [(ast.unparse(node.target), node.value)]
        for name, default in defaults:
            if "trust" in name and default is not None and ast.unparse(default) != "False":
                yield f"line {default.lineno}: {name} is {ast.unparse(default)} by default"


def downloads(source: Source) -> Iterator[str]:
    """Models are fetched in one place, where everything they bring is checked."""
    if not source.path.startswith("src/") or source.path == LOADER:
        return
    for name in source.names.values():
        if name.split(".")[0] in NETWORK:
            yield f"imports {name}: a network"
    for call, name in calls(source):
        is_foreign = name.startswith(("transformers.", "peft.")) and name.endswith(".from_pretrained")
        if is_foreign and values(call).get("local_files_only") is not True:
            yield f"line {call.lineno}: {name} without local_files_only=True"


RULES: Final[tuple[Callable[[Source], Iterator[str]], ...]] = (
    modules,
    banned_calls,
    banned_names,
    unsafe_values,
    careless_readers,
    trusting_defaults,
    downloads,
)


def complaints_about(file: Path) -> list[str]:
    source = parse(file.relative_to(PROJECT).as_posix(), file.read_text(encoding="utf-8"))
    return [complaint for rule in RULES for complaint in rule(source)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PROJECT).as_posix())
def test_the_project_keeps_the_rules(file: Path) -> None:
    allowed = [words for path, words in EXCEPTIONS if PROJECT / path == file]
    assert [found for found in complaints_about(file) if not any(words in found for words in allowed)] == []


@pytest.mark.parametrize(("path", "words"), EXCEPTIONS)
def test_no_exception_is_unused(path: str, words: str) -> None:
    assert any(words in found for found in complaints_about(PROJECT / path))


def test_there_is_something_to_check() -> None:
    names = {file.relative_to(PROJECT).as_posix() for file in FILES}
    assert {LOADER, "src/evodraft/training/checkpoint.py", "demo/src/evodraft_demo/__init__.py"} <= names
    assert any(name.startswith("examples/") for name in names)
    assert any(name.startswith("benchmarks/") for name in names)


@pytest.mark.parametrize(
    ("rule", "snippet"),
    [
        (modules, "import pickle"),
        (modules, "from pickle import UnpicklingError"),
        (modules, "import cloudpickle as cp"),
        (modules, "def late():\n    import joblib.numpy_pickle"),
        (modules, "from marshal import loads"),
        (modules, "import shelve, dill"),
        (banned_calls, "eval('1')"),
        (banned_calls, "exec(code)"),
        (banned_calls, "compile(text, 'x', 'exec')"),
        (banned_calls, "__import__(name)"),
        (banned_calls, "import builtins\nbuiltins.eval('1')"),
        (banned_calls, "from builtins import exec as run\nrun(code)"),
        (banned_calls, "import os\nos.system('ls')"),
        (banned_calls, "from os import system as run\nrun('ls')"),
        (banned_calls, "import os\nos.execv(path, arguments)"),
        (banned_calls, "import importlib\nimportlib.import_module(name)"),
        (banned_calls, "import runpy\nrunpy.run_path(path)"),
        (banned_calls, "import yaml\nyaml.load(text)"),
        (banned_calls, "import yaml as y\ny.load(text, Loader=y.SafeLoader)"),
        (banned_calls, "from yaml import unsafe_load\nunsafe_load(text)"),
        (banned_calls, "import tempfile\ntempfile.mktemp()"),
        (banned_calls, "import torch\ntorch.serialization.add_safe_globals([A])"),
        (banned_calls, "from jinja2 import Environment\nEnvironment()"),
        (banned_names, "map(eval, lines)"),
        (banned_names, "import yaml\nread = yaml.load"),
        (banned_names, "from torch import load\nread(path, load)"),
        (unsafe_values, "Model.from_pretrained(name, trust_remote_code=True)"),
        (unsafe_values, "read(weights_only=False)"),
        (unsafe_values, "Model.from_pretrained(name, use_safetensors=False)"),
        (unsafe_values, "run(command, shell=True)"),
        (careless_readers, "import torch\ntorch.load(path)"),
        (careless_readers, "import torch\ntorch.load(path, weights_only=False)"),
        (careless_readers, "import torch\ntorch.load(path, weights_only=flag)"),
        (careless_readers, "import torch\ntorch.load(path, None, None, **options)"),
        (careless_readers, "import torch as t\nt.load(path)"),
        (careless_readers, "from torch import load\nload(path)"),
        (careless_readers, "import numpy as np\nnp.load(path, allow_pickle=True)"),
        (careless_readers, "import numpy as np\nnp.load(path, allow_pickle=flag)"),
        (careless_readers, "import subprocess as sp\nsp.run('ls', shell=flag)"),
        (careless_readers, "import tarfile\narchive.extractall(path)"),
        (trusting_defaults, "def load(name, *, trust_remote_code=True): ..."),
        (trusting_defaults, "def load(name, trust_remote_code: bool = DEFAULT): ..."),
        (trusting_defaults, "class Options:\n    trust_remote_code: bool = True"),
        (downloads, "import requests"),
        (downloads, "from huggingface_hub import snapshot_download"),
        (downloads, "from urllib.request import urlopen"),
        (downloads, "from transformers import AutoConfig\nAutoConfig.from_pretrained(name)"),
        (downloads, "import transformers as t\nt.AutoModel.from_pretrained(name, local_files_only=offline)"),
    ],
)
def test_a_rule_finds_what_is_wrong(rule: Callable[[Source], Iterator[str]], snippet: str) -> None:
    assert list(rule(parse("src/evodraft/engine.py", snippet)))


@pytest.mark.parametrize(
    "snippet",
    [
        "model.eval()",
        "import re\nre.compile('a')",
        "import torch\ntorch.compile(model)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import yaml\nyaml.safe_load(text)",
        "import numpy as np\nnp.load(path)",
        "import subprocess\nsubprocess.run(['git', 'status'], check=True)",
        "import importlib\nimportlib.import_module('evodraft.cli')",
        "load_model(name, trust_remote_code=options.trust_remote_code)",
        "def load(name, trust_remote_code=False): ...",
        "class Options:\n    trust_remote_code: bool = False",
        "LLM.from_pretrained('demo')",
        "from transformers import LlamaForCausalLM\nLlamaForCausalLM.from_pretrained(folder, local_files_only=True)",
        "from evodraft.training import data",
    ],
)
def test_a_rule_does_not_find_what_is_right(snippet: str) -> None:
    source = parse("src/evodraft/engine.py", snippet)
    assert [complaint for rule in RULES for complaint in rule(source)] == []


def test_only_the_loader_may_ask_a_hub() -> None:
    snippet = "from transformers import AutoConfig\nAutoConfig.from_pretrained(name)"
    assert not list(downloads(parse(LOADER, snippet)))


# --------------------------------------------------------------------------------
# Code that comes with a model is off unless somebody turns it on
# --------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [LLM.from_pretrained, load_model, LoadOptions, DrafterContext], ids=str)
def test_trust_remote_code_is_off_by_default(entry: Callable[..., Any]) -> None:
    assert inspect.signature(entry).parameters["trust_remote_code"].default is False


def test_the_async_entry_passes_options_on_and_has_no_default_of_its_own() -> None:
    assert [str(parameter) for parameter in inspect.signature(AsyncLLM.from_pretrained).parameters.values()] == [
        "target: 'object'",
        "**options: 'Any'",
    ]

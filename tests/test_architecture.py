"""The shape of the source tree, as rules that a machine can check.

Every rule is a function from one parsed module to a list of complaints. Each is tried twice: on the source
tree, where it must find nothing, and on small wrong snippets, where it must find something; a rule that cannot
fail protects nothing. An exception is a table entry with a reason, and an entry that nothing needs fails too.

The rules know nothing about what the code does.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = "evodraft"

# --------------------------------------------------------------------------------
# The tables
# --------------------------------------------------------------------------------

# A part (a top-level module or package) may import parts of earlier rows, never of its own row or a later one.
LAYERS: Final = (
    {"errors", "machine"},
    {"params"},
    {"types"},
    {"config", "spellings"},
    {"sampling", "losses", "runtime"},
    {"processors", "text", "memory"},
    {"session"},
    {"target", "drafters", "controllers", "verifiers", "jobs", "exhaustion"},
    {"drafting", "learners", "feedback", "metrics", "admission"},
    {"engine"},
    {"assemble", "llm_view"},
    {"llm"},
    {"async_llm"},
    {"demo", "inspection"},
    {"display"},
    {"server", "bench"},
    {"cli"},
)


def _up_to(part: str) -> frozenset[str]:
    """Every part of the row that holds `part`, and of the rows before."""
    last = next(number for number, row in enumerate(LAYERS) if part in row)
    return frozenset().union(*LAYERS[: last + 1])


_UP_TO_ENGINE: Final = _up_to("engine")
_UP_TO_LLM: Final = _up_to("async_llm")
_FOUNDATION: Final = _up_to("config") | {"runtime", "drafters", "losses"}
_SIDES: Final = frozenset({"training", "zoo", "distributed", "integrations"})

# Parts beside the line: what they may import.
BESIDE: Final[Mapping[str, frozenset[str]]] = {
    "training": _FOUNDATION,
    "zoo": _FOUNDATION,
    "testing": _UP_TO_ENGINE,
    "distributed": _UP_TO_LLM,
    "integrations": _UP_TO_LLM,
    "__init__": _UP_TO_LLM,
    "__main__": frozenset({"cli"}),
}
# What the upper rows may take from beside the line; below them nobody may.
TAKES_FROM_BESIDE: Final[Mapping[str, frozenset[str]]] = {
    # the only part that turns a hub id into a target, and so the one that may ask what drafts for it
    "assemble": frozenset({"zoo"}),
    "server": _SIDES | {"__init__"},
    "bench": _SIDES | {"__init__", "testing"},  # goodness of fit is judged in tests and in benchmarks alike
    "cli": _SIDES | {"__init__"},
    "integrations": frozenset({"__init__"}),
}
# Arrows between parts of one row, each with its reason.
ARROWS: Final[Mapping[tuple[str, str], str]] = {
    ("drafters", "target"): "a drafter is fed with the prompt chunks and taps that the target hands out",
}

MAX_FILE_LINES: Final = 400
MAX_FUNCTION_LINES: Final = 40
# "drafters/eagle.py" or "drafters/eagle.py::EagleDrafter.step" -> why it is better long.
LONG: Final[Mapping[str, str]] = {}
# "cli.py::app" -> why the module must own it.
MODULE_STATE: Final[Mapping[str, str]] = {}
# "training/draft.py" -> why it draws from a global generator.
GLOBAL_RANDOMNESS: Final[Mapping[str, str]] = {
    "integrations/transformers/drop_in.py": "torch.manual_seed governs model.generate, whoever decodes for it",
}


class Module(NamedTuple):
    """One parsed source file."""

    path: str  # relative to the package, with "/"
    source: str
    tree: ast.Module

    @property
    def part(self) -> str:
        return self.path.split("/")[0].removesuffix(".py")

    @property
    def package(self) -> tuple[str, ...]:
        """The dotted package that relative imports start from."""
        return (PACKAGE, *self.path.split("/")[:-1])


def parse(path: str, source: str) -> Module:
    return Module(path, source, ast.parse(source, filename=path))


def source_tree() -> list[Module]:
    root = PROJECT / "src" / PACKAGE
    files = sorted(root.rglob("*.py"))
    return [parse(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")) for file in files]


MODULES: Final = source_tree()
PARTS: Final = frozenset(module.part for module in MODULES)

# --------------------------------------------------------------------------------
# Imports
# --------------------------------------------------------------------------------


def imported_names(module: Module) -> Iterator[str]:
    """Dotted names of everything a module imports, wherever in the file.

    Imports under TYPE_CHECKING count like any other: a type that one must look up to read a signature is a
    dependency of the reader, even if the interpreter never follows it.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.package[: len(module.package) + 1 - node.level] if node.level else ()
            prefix = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def imported_parts(module: Module, parts: frozenset[str]) -> set[str]:
    """Parts of evodraft that a module imports, its own excluded; "__init__" stands for the public names."""
    found = set()
    for name in imported_names(module):
        root, _, rest = name.partition(".")
        if root == PACKAGE:
            part = rest.split(".")[0]
            found.add(part if part in parts else "__init__")
    return found - {module.part}


def allowed_parts(part: str) -> frozenset[str]:
    """What a part that some table knows may import."""
    if part in BESIDE:
        return BESIDE[part] | TAKES_FROM_BESIDE.get(part, frozenset())
    row = next(row for row in LAYERS if part in row)
    peers = {to for (start, to) in ARROWS if start == part}
    return (_up_to(part) - row) | peers | TAKES_FROM_BESIDE.get(part, frozenset())


def is_known(part: str) -> bool:
    return part in BESIDE or any(part in layer for layer in LAYERS)


def unknown_parts(module: Module) -> list[str]:
    return [] if is_known(module.part) else [f"{module.part} is in no table: say where it stands in LAYERS or BESIDE"]


def wrong_arrows(module: Module, parts: frozenset[str] = PARTS) -> list[str]:
    if not is_known(module.part):
        return []  # `unknown_parts` complains
    wrong = imported_parts(module, parts) - allowed_parts(module.part)
    return [f"imports {part}, which stands above or beside it" for part in sorted(wrong)]


def undeclared_dependencies(module: Module) -> list[str]:
    """Third-party packages that pyproject.toml does not name, so that they are here only by accident."""
    roots = {name.split(".")[0] for name in imported_names(module)}
    foreign = roots - {PACKAGE, "evodraft_demo"} - sys.stdlib_module_names
    return [f"imports {name}, which pyproject.toml does not name" for name in sorted(foreign - declared())]


def declared() -> set[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = itertools.chain.from_iterable(extra for name, extra in extras.items() if name != "dev")
    requirements = [*project["dependencies"], *optional]
    return {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}


# --------------------------------------------------------------------------------
# Sizes and names
# --------------------------------------------------------------------------------

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, FunctionNode]]:
    """Every function with its qualified name; one inside another comes on its own and within the outer."""
    for child in ast.iter_child_nodes(node):
        name = f"{prefix}{child.name}" if isinstance(child, FunctionNode | ast.ClassDef) else ""
        if isinstance(child, FunctionNode):
            yield name, child
        yield from functions(child, f"{name}." if name else prefix)


def function_lines(node: FunctionNode) -> int:
    """Lines from `def` to the end without the docstring: explaining must not make a function too long."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def sizes(module: Module) -> Iterator[tuple[str, int, int]]:
    """(entry in LONG, lines, limit) of the file and of everything in it."""
    yield module.path, len(module.source.splitlines()), MAX_FILE_LINES
    for name, node in functions(module.tree):
        yield f"{module.path}::{name}", function_lines(node), MAX_FUNCTION_LINES


def too_long(module: Module, long: Mapping[str, str] = LONG) -> list[str]:
    return [
        f"{entry} has {lines} lines, the limit is {limit}"
        for entry, lines, limit in sizes(module)
        if lines > limit and entry not in long
    ]


def nameless_helpers(module: Module) -> list[str]:
    names = {part.removesuffix(".py").strip("_") for part in module.path.split("/")}
    return [
        f"'{name}' is no noun: a helper lives with its only user, or in a module named for what it does"
        for name in sorted(names & {"utils", "util", "helpers", "common", "misc"})
    ]


def missing_docstrings(module: Module) -> list[str]:
    return [] if ast.get_docstring(module.tree) else ["has no module docstring"]


# --------------------------------------------------------------------------------
# State, output, randomness (what runs untrusted code: tests/test_security.py)
# --------------------------------------------------------------------------------

_CONSTANT: Final = re.compile(r"_?[A-Z][A-Z0-9_]*|__\w+__")
_TYPE_NAME: Final = re.compile(r"_?[A-Z][a-zA-Z0-9]*")
_READ_ONLY: Final = re.compile(r"\b(Final|Mapping|Sequence|TypeAlias)\b")
_MUTABLE_DISPLAYS: Final = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MUTABLE_CALLS: Final = frozenset(
    [
        *("list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque", "count"),
        *("Lock", "RLock", "local", "ContextVar", "WeakKeyDictionary", "WeakValueDictionary"),
        *("Generator", "Random", "default_rng"),
    ]
)
_TYPE_MAKERS: Final = frozenset({"TypeVar", "ParamSpec", "NewType", "NamedTuple", "TypedDict"})


def called_name(node: ast.AST) -> str:
    """The last name of what a call calls (`a.b.c()` -> "c"), or ""."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


def module_state(module: Module, kept: Mapping[str, str] = MODULE_STATE) -> list[str]:
    """Anything a module owns beyond constants, functions, classes, type names, a logger; any `global`."""
    complaints = [
        f"{module.path}:{node.lineno}: `global` statement"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global)
    ]
    for statement in module.tree.body:
        complaints += _statement_state(statement, module.path, kept)
    return complaints


def _statement_state(statement: ast.stmt, path: str, kept: Mapping[str, str]) -> list[str]:
    where = f"{path}:{statement.lineno}"
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return []
        case ast.Expr(value=ast.Constant()):
            return []
        case ast.Expr() if path == "__main__.py":  # running is what it is for
            return []
        case ast.If() if ast.unparse(statement.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}:
            return []
        case ast.Assign(targets=targets, value=value):
            names = [name for target in targets for name in _target_names(target)]
            annotation = ""
        case ast.AnnAssign(target=target, annotation=node, value=value):
            names, annotation = [ast.unparse(target)], ast.unparse(node)
        case _:
            return [f"{where}: `{ast.unparse(statement).splitlines()[0]}` runs at import"]
    wrong = [name for name in names if f"{path}::{name}" not in kept and not _is_constant(name, annotation, value)]
    return [f"{where}: module-level state `{name}`" for name in wrong]


def _target_names(target: ast.expr) -> list[str]:
    parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
    return [ast.unparse(part) for part in parts]


def _is_constant(name: str, annotation: str, value: ast.expr | None) -> bool:
    call = called_name(value) if value is not None else ""
    if name == "__all__" or call == "getLogger" or "TypeAlias" in annotation or call in _TYPE_MAKERS:
        return True
    is_type = bool(_TYPE_NAME.fullmatch(name)) and isinstance(
        value, ast.Name | ast.Attribute | ast.Subscript | ast.BinOp
    )
    is_mutable = isinstance(value, _MUTABLE_DISPLAYS) or call in _MUTABLE_CALLS
    return is_type or bool(_CONSTANT.fullmatch(name) and (not is_mutable or _READ_ONLY.search(annotation)))


def prints(module: Module) -> list[str]:
    return [f"{module.path}:{call.lineno}: print()" for call, name in calls(module) if name == "print"]


def calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted text of what is called."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def keyword_of(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), None)


_DRAWS: Final = frozenset(
    {
        "rand",
        "randn",
        "randint",
        "randperm",
        "normal",
        "bernoulli",
        "multinomial",
        "poisson",
        "rand_like",
        "randn_like",
    }
)
_DRAWS_IN_PLACE: Final = frozenset(
    {"random_", "uniform_", "normal_", "exponential_", "bernoulli_", "cauchy_", "geometric_"}
)
_OWN_GENERATORS: Final = frozenset(
    {
        "random.Random",
        "np.random.default_rng",
        "numpy.random.default_rng",
        "np.random.Generator",
        "np.random.Philox",
    }
)


def global_randomness(module: Module, kept: Mapping[str, str] = GLOBAL_RANDOMNESS) -> list[str]:
    """Draws from a generator that no one passed in: another request, or the user's code, could move it.

    Inside `with torch.random.fork_rng()` they are fine: constructors of models know no other way.
    """
    if module.path in kept:
        return []
    forked = {call for node in ast.walk(module.tree) if _is_fork(node) for call in ast.walk(node)}
    drawing = [(call, name) for call, name in calls(module) if _draws_globally(call, name) and call not in forked]
    return [f"{module.path}:{call.lineno}: {name}()" for call, name in drawing]


def _is_fork(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and called_name(node.items[0].context_expr) == "fork_rng"


def _draws_globally(call: ast.Call, name: str) -> bool:
    root, _, function = name.rpartition(".")
    if name in _OWN_GENERATORS:
        return False
    if (
        root in {"random", "np.random", "numpy.random"}
        or function in {"manual_seed_all"}
        or name == "torch.manual_seed"
    ):
        return True
    draws = (root == "torch" and function in _DRAWS) or (root and function in _DRAWS_IN_PLACE)
    return bool(draws) and keyword_of(call, "generator") is None


# --------------------------------------------------------------------------------
# The rules hold
# --------------------------------------------------------------------------------

RULES: Final[tuple[Callable[[Module], list[str]], ...]] = (
    unknown_parts,
    wrong_arrows,
    undeclared_dependencies,
    too_long,
    nameless_helpers,
    missing_docstrings,
    module_state,
    prints,
    global_randomness,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.path)
def test_source_keeps_the_rule(module: Module, rule: Callable[[Module], list[str]]) -> None:
    assert rule(module) == [], f"src/{PACKAGE}/{module.path}: see {rule.__name__} in tests/test_architecture.py"


def test_there_is_source_to_check() -> None:
    assert {"__init__", "errors", "types", "sampling"} <= PARTS


def test_no_exception_is_unused() -> None:
    by_path = {module.path: module for module in MODULES}
    long = {entry for module in MODULES for entry, lines, limit in sizes(module) if lines > limit}
    state = {entry for entry in MODULE_STATE if module_state(by_path[entry.split("::")[0]], {})}
    randomness = {path for path in GLOBAL_RANDOMNESS if global_randomness(by_path[path], {})}
    arrows = {(module.part, to) for module in MODULES for to in imported_parts(module, PARTS)}
    assert set(LONG) <= long
    assert set(MODULE_STATE) <= state
    assert set(GLOBAL_RANDOMNESS) <= randomness
    assert set(ARROWS) <= arrows


def test_every_exception_has_a_reason() -> None:
    for table in (ARROWS, LONG, MODULE_STATE, GLOBAL_RANDOMNESS):
        assert all(len(reason) > 10 for reason in table.values())


def test_arrows_within_a_row_run_one_way() -> None:
    assert not {(to, start) for start, to in ARROWS} & set(ARROWS)


# --------------------------------------------------------------------------------
# The rules can fail
# --------------------------------------------------------------------------------

_EVERY_PART: Final = frozenset().union(*LAYERS, BESIDE)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("types.py", "from evodraft.engine import Engine"),
        ("sampling.py", "import evodraft.session"),
        ("sampling.py", "from evodraft import losses"),
        ("session.py", "from evodraft.verifiers.base import Verifier"),
        ("engine.py", "from evodraft.llm import LLM"),
        ("engine.py", "from evodraft import LLM"),
        ("engine.py", "def late():\n    from evodraft.training import draft"),
        ("engine.py", "from evodraft.testing import TableLM"),
        ("drafters/ngram.py", "from ..verifiers import rejection"),
        ("drafters/ngram.py", "if TYPE_CHECKING:\n    from evodraft.engine import Engine"),
        ("training/draft.py", "from evodraft.engine import Engine"),
        ("zoo/load.py", "from evodraft.training import draft"),
        ("testing/table.py", "from evodraft.llm import LLM"),
        ("bench/run.py", "from evodraft.server import app"),
    ],
)
def test_wrong_arrow_is_caught(path: str, source: str) -> None:
    assert wrong_arrows(parse(path, source), _EVERY_PART)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("engine.py", "from evodraft.verifiers import rejection\nfrom evodraft.types import Draft"),
        (
            "drafters/ngram.py",
            "from .base import Drafter\nfrom ..types import Draft\nfrom evodraft.drafters import base",
        ),
        ("assemble.py", "from evodraft.zoo import registered_drafts"),
        ("cli.py", "from evodraft import LLM\nfrom evodraft.training import draft"),
        ("__init__.py", "from evodraft.llm import LLM"),
        ("__main__.py", "from evodraft.cli import main"),
    ],
)
def test_right_arrow_is_not_caught(path: str, source: str) -> None:
    assert wrong_arrows(parse(path, source), _EVERY_PART) == []


def test_unknown_part_is_caught_by_name() -> None:
    assert "scheduler is in no table" in unknown_parts(parse("scheduler.py", ""))[0]


def test_undeclared_dependency_is_caught() -> None:
    module = parse("engine.py", "import torch.nn\nimport json\nfrom sklearn.metrics import roc_curve")
    assert undeclared_dependencies(module) == ["imports sklearn, which pyproject.toml does not name"]


def test_long_file_is_caught() -> None:
    assert too_long(parse("engine.py", "A = 1\n" * (MAX_FILE_LINES + 1)))
    assert too_long(parse("engine.py", "A = 1\n" * MAX_FILE_LINES)) == []


def test_long_function_is_caught_without_its_docstring() -> None:
    signature, docstring, line = (
        "class A:\n    async def b(self):\n",
        '        """One.\n\n        Two.\n        """\n',
        "        c()\n",
    )
    fits = parse("engine.py", signature + docstring + line * (MAX_FUNCTION_LINES - 1))
    too_much = parse("engine.py", signature + docstring + line * MAX_FUNCTION_LINES)
    assert too_long(fits) == []
    assert too_long(too_much) == ["engine.py::A.b has 41 lines, the limit is 40"]
    assert too_long(too_much, {"engine.py::A.b": "one table"}) == []


@pytest.mark.parametrize("path", ["utils.py", "drafters/utils.py", "bench/_utils.py", "utils/loader.py"])
def test_nameless_helper_is_caught(path: str) -> None:
    assert nameless_helpers(parse(path, ""))


def test_missing_module_docstring_is_caught() -> None:
    assert missing_docstrings(parse("engine.py", "# only a comment\nA = 1"))


@pytest.mark.parametrize(
    "source",
    [
        "cache = {}",
        "CACHE = {}",
        "CACHE: dict[str, int] = {}",
        "SEEN = set()",
        "QUEUE = collections.deque()",
        "LOCK = threading.Lock()",
        "counter = 0",
        "ROWS = [row for row in TABLE]",
        "def f():\n    global COUNT\n    COUNT = 1",
        "torch.set_num_threads(1)",
        "for name in NAMES:\n    register(name)",
        "if torch.cuda.is_available():\n    DEVICE = 'cuda'",
        "LIMIT = 1\nLIMIT += 1",
        "settings = Settings()",
        "FIRST, second = 1, 2",
    ],
)
def test_module_state_is_caught(source: str) -> None:
    assert module_state(parse("engine.py", source))


@pytest.mark.parametrize(
    "source",
    [
        "__all__ = ['A']",
        "LIMIT = 400",
        "FIRST, SECOND = 1, 2",
        "_TABLE: Mapping[str, int] = {'a': 1}",
        "TABLE: Final = {'a': 1}",
        "NAMES = ('a', 'b')",
        "Tokens = list[int]",
        "Law: TypeAlias = 'torch.Tensor'",
        "Part = TypeVar('Part')",
        "Choice = str | None",
        "logger = logging.getLogger(__name__)",
        "if TYPE_CHECKING:\n    import torch",
        "if __name__ == '__main__':\n    main()",
        "class A:\n    x = 1\nasync def f(): ...",
    ],
)
def test_constants_are_not_caught(source: str) -> None:
    assert module_state(parse("engine.py", source)) == []


def test_listed_module_state_is_kept() -> None:
    assert module_state(parse("cli.py", "app = typer.Typer()"), {"cli.py::app": "typer wants it"}) == []


def test_print_is_caught() -> None:
    assert prints(parse("engine.py", "def f():\n    print('here')"))
    assert prints(parse("engine.py", "console.print('here')")) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.manual_seed(0)",
        "random.random()",
        "np.random.rand(3)",
        "torch.rand(3)",
        "torch.multinomial(law, 1)",
        "noise.exponential_()",
        "with torch.no_grad():\n    torch.manual_seed(7)",
    ],
)
def test_global_randomness_is_caught(source: str) -> None:
    assert global_randomness(parse("engine.py", source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.rand(3, generator=g)",
        "noise.exponential_(generator=g)",
        "random.Random(7)",
        "generator.manual_seed(7)",
        "with torch.random.fork_rng(devices=[]):\n    torch.manual_seed(7)",
    ],
)
def test_own_generators_are_not_caught(source: str) -> None:
    assert global_randomness(parse("engine.py", source)) == []

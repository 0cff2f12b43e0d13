"""The house stays in order: which part may import which, and what every file keeps to."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kclr"

# The way of an image through kclr. A room (a module, or a package with all that is in it) imports
# rooms of the lines above its own, and nothing else of kclr. Rooms that share a line do not see
# each other. `kclr/__init__.py` sees all, and nobody sees it.
ORDER = (
    ("errors",),
    ("version",),
    ("scaling",),
    ("keras_backend",),
    ("events",),
    ("spec",),
    ("health",),
    ("runs",),
    ("data",),
    ("alike",),
    ("kernels",),
    ("layers",),
    ("pooling",),
    ("fitted",),
    ("whitening",),
    ("objectives",),
    ("losses",),
    ("model",),
    ("training",),
    ("probing",),
    ("callbacks",),
    ("learners",),
    ("drawing",),
    ("export",),
    ("stack",),
    ("initializers",),
    ("separable",),
    ("transfer", "search", "verify"),
    ("report",),
    ("arguments",),
    ("cli",),
    ("__main__",),
)
FLOORS = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}

HEAVY = {
    "av",
    "h5py",
    "keras",
    "keras_tuner",
    "matplotlib",
    "PIL",
    "scipy",
    "sklearn",
    "soundfile",
    "tensorflow",
    "tensorflow_datasets",
    "tifffile",
}
LONGEST = 600
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    """`kclr.spec.schema` for kclr/spec/schema.py, `kclr.spec` for kclr/spec/__init__.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source, module, is_package=False):
    """Absolute names of what a module imports anywhere in it, functions included, and the lines.

    `from package import name` counts as `package.name`: whether that is a module or a name in
    one, its room is the same.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((".".join([*base, alias.name]), node.lineno) for alias in node.names)


def steps_back(source, module, is_package=False):
    """One line for each import that breaks `ORDER`."""
    room = module.split(".")[1]
    found = []
    for name, line in imported_modules(source, module, is_package):
        package, _, rest = name.partition(".")
        imported = rest.split(".")[0]
        if package != "kclr" or imported == room:
            continue
        if imported not in FLOORS:
            found.append(f"{module}:{line} imports {name}: import from the room that defines it")
        elif room in FLOORS and FLOORS[imported] >= FLOORS[room]:
            found.append(f"{module}:{line} imports {name}: {imported} is not above {room}")
    return found


def undocumented(source):
    """Names of the public functions and classes at a module's top that have no docstring."""
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]


def test_every_room_has_a_place_in_the_order():
    rooms = {module_name(path).split(".")[1] for path in FILES if path.parent != PACKAGE}
    rooms |= {path.stem for path in FILES if path.parent == PACKAGE} - {"__init__"}
    assert not rooms - FLOORS.keys(), "give each of these its line in ORDER"


def test_rooms_import_only_rooms_above_them():
    found = []
    for path in FILES:
        if path != PACKAGE / "__init__.py":
            found += steps_back(path.read_text(), module_name(path), path.name == "__init__.py")
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "source",
    [
        "import kclr.stack",
        "from kclr import stack",
        "from kclr.stack import train",
        "def later():\n    from kclr.stack import train",
        "from kclr.layers import ContrastiveConvBlock",
        "from .. import stack",
        "from ..stack import train",
        "from kclr import TripletModel",
        "import kclr",
    ],
)
def test_a_step_back_is_seen_in_every_form_of_import(source):
    assert len(steps_back(source, "kclr.data.sources")) == 1


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from . import patches", "kclr.data.sources"),
        ("from .patches import crops", "kclr.data.sources"),
        ("from kclr.spec.registry import register", "kclr.data.sources"),
        ("from ..errors import SpecError", "kclr.data.sources"),
        ("import kclr.data.sources as stack", "kclr.stack"),
        ("import keras, kclrish", "kclr.data.sources"),
    ],
)
def test_a_step_forward_is_allowed_in_every_form_of_import(source, module):
    assert steps_back(source, module) == []


def test_relative_imports_of_a_package_are_its_own():
    assert steps_back("from . import schema", "kclr.spec", is_package=True) == []
    assert len(steps_back("from .. import stack", "kclr.spec", is_package=True)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "import kclr",
        "import kclr.cli",
        "import kclr.spec",
        "import kclr.runs.run, kclr.report",
        "from kclr.spec.registry import parts; parts('source'), parts('objective')",
    ],
)
def test_help_and_check_do_not_wait_for_tensorflow(statement):
    ask = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    answer = subprocess.run(
        [sys.executable, "-c", ask], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert not HEAVY & set(answer.stdout.split())


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_file_is_short_named_for_its_idea_and_documented(path):
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST
    assert path.stem not in SAYS_NOTHING
    assert undocumented(source) == []


def test_the_page_shows_the_order_of_imports():
    block = (PACKAGE.parent / "docs/architecture.md").read_text().split("```")[1]
    shown = [
        [name.removesuffix(".py") for name in re.findall(r"(\w+)(?:\.py|/)", line.split("  ")[1])]
        for line in block.splitlines()
        if re.match(r"  \w", line)
    ]
    rooms = [room for line in shown for room in line]
    assert sorted(rooms) == sorted(FLOORS.keys() - {"__main__"})
    assert rooms == sorted(rooms, key=FLOORS.__getitem__)


def test_a_missing_docstring_is_seen():
    source = "def shown(): pass\ndef _hidden(): pass\nclass Shown:\n    '''It is.'''"
    assert undocumented(source) == ["shown"]

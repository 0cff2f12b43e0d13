"""Arguments of Keras' own classes, read from Keras' source files without importing it.

Importing Keras takes seconds; the text of a few `__init__` methods is read in milliseconds. Where
Keras is not installed, or is laid out in a way that is not understood, nothing is known and nothing
is said: Keras itself checks again before a training starts.
"""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path


@cache
def arguments(package: str, class_name: str) -> dict[str, bool] | None:
    """Arguments that a class takes.

    Args:
        package: where Keras offers it, such as "keras.optimizers".
        class_name: its name there.

    Returns:
        For each name whether it must be given, or None where that cannot be told.
    """
    try:
        found = importlib.util.find_spec("keras")
        if found is None or not found.submodule_search_locations:
            return None
        root = Path(next(iter(found.submodule_search_locations))).parent
        return _arguments(root, package, class_name)
    except Exception:  # whatever is odd about somebody's Keras must not stop a check
        return None


def _arguments(root, module, class_name):
    """The arguments of a class, those of the bases that its `**kwargs` reach included."""
    source = _source(root, module)
    start = re.search(rf"^class {class_name}\b(?:\((.*?)\))?:", source, re.MULTILINE | re.DOTALL)
    if start is None:
        return _arguments(root, *_imports(source)[class_name].rpartition(".")[::2])
    body = re.split(r"^\S", source[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    header = re.search(r"^    def __init__\((.*?)\)(?: -> None)?:", body, re.MULTILINE | re.DOTALL)
    known: dict[str, bool] = {}
    if header:
        taken = ast.parse(f"def __init__({header[1]}): pass").body[0].args  # type: ignore[attr-defined]
        plain = (taken.posonlyargs + taken.args)[1:]
        without = len(plain) - len(taken.defaults)
        known = {argument.arg: i < without for i, argument in enumerate(plain)}
        known |= {
            argument.arg: default is None
            for argument, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True)
        }
        if not taken.kwarg:
            return known
        known |= dict.fromkeys(re.findall(r"kwargs\.pop\(\s*[\"'](\w+)", body), False)
    for base in filter(None, (name.strip() for name in (start[1] or "").split(","))):
        head, _, tail = base.rpartition(".")
        if re.search(rf"^class {base}\b", source, re.MULTILINE):
            inherited = _arguments(root, module, base)
        else:
            home = _imports(source)[head] if head else _imports(source)[base].rpartition(".")[0]
            # What Keras chooses by its backend (TFOptimizer, TFLayer) adds no argument.
            if ".backend." in home:
                continue
            inherited = _arguments(root, home, tail)
        # A base's required arguments are the subclass's to give, unless it inherits `__init__`.
        known = {name: needed and not header for name, needed in inherited.items()} | known
        if not header:
            break
    return known


def _source(root, module):
    path = root.joinpath(*module.split("."))
    if not path.parent.exists() or not (path.is_dir() or path.with_suffix(".py").exists()):
        path = root.joinpath("keras", "api", *module.split(".")[1:])  # older releases of Keras
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")


def _imports(source) -> dict[str, str]:
    """Full names of what a module imports from others, by their names in it."""
    source = re.sub(r"#.*", "", source)
    pattern = r"^\s*from ([\w.]+) import (?:\(([^)]*)\)|([^\n(]*))"
    found = {}
    for home, many, one in re.findall(pattern, source, re.MULTILINE):
        for name in (many or one).split(","):
            original, _, alias = name.strip().partition(" as ")
            found[alias.strip() or original] = f"{home}.{original}"
    return found

"""Ways in which a file is damaged, by accident or by somebody."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np


def damage(path, choice) -> str:
    """Damage a file in a random way that fits its kind.

    Args:
        path: the file.
        choice: a `random.Random`.

    Returns:
        What was done, in words.
    """
    ways = [truncated, emptied, flipped, zeroed, overwritten, extended, removed, a_directory,
            a_pipe, a_link_away, a_link_to_nothing, a_link_to_zeros]  # fmt: skip
    if path.suffix == ".npy":
        ways += [not_a_number, not_a_number, flipped, other_shape, other_type, pickled]
    if path.suffix in (".json", ".jsonl"):
        ways += [other_value] * 6
    way = choice.choice(ways)
    way(path, choice)
    return way.__name__.replace("_", " ")


def truncated(path, choice):
    size = path.stat().st_size
    os.truncate(path, choice.randrange(size) if size else 0)


def emptied(path, choice):
    os.truncate(path, 0)


def flipped(path, choice):
    content = bytearray(path.read_bytes() or b"\0")
    content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
    path.write_bytes(content)


def zeroed(path, choice):
    path.write_bytes(bytes(path.stat().st_size))


def overwritten(path, choice):
    content = bytearray(path.read_bytes() or b"\0")
    start = choice.randrange(len(content))
    content[start : start + choice.randint(1, 64)] = choice.randbytes(choice.randint(1, 64))
    path.write_bytes(content)


def extended(path, choice):
    path.write_bytes(path.read_bytes() + choice.randbytes(choice.randint(1, 4096)))


def removed(path, choice):
    path.unlink()


def a_directory(path, choice):
    path.unlink()
    path.mkdir()


def a_pipe(path, choice):
    path.unlink()
    os.mkfifo(path)


def a_link_away(path, choice):
    path.unlink()
    path.symlink_to(Path(__file__).resolve())


def a_link_to_nothing(path, choice):
    path.unlink()
    path.symlink_to("nowhere")


def a_link_to_zeros(path, choice):
    path.unlink()
    path.symlink_to("/dev/zero")


def not_a_number(path, choice):
    array = np.array(_array(path), dtype=np.float32)
    if array.size:
        array.flat[choice.randrange(array.size)] = choice.choice([np.nan, np.inf, -np.inf, 3e38])
    np.save(path, array)


def other_shape(path, choice):
    array = _array(path)
    new = choice.choice([array[..., :-1], array[None], array.ravel(), array[:0], array[..., None]])
    np.save(path, new)


def other_type(path, choice):
    kind = choice.choice(["float64", "int8", "complex64", "bool", "S3", "U2", ">f4"])
    np.save(path, _array(path).astype(kind))


def pickled(path, choice):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _array(path):
    with contextlib.suppress(ValueError, OSError, EOFError):
        array = np.load(path, allow_pickle=False)
        return array if array.ndim else array.reshape(1)
    return np.zeros(3, np.float32)


ODD = [
    None, True, False, 0, -1, 1, 3.5, 10**9, 10**30, 1e308, -1e308, float("nan"), float("inf"), "",
    "x", "\x1b[31mred\x1b[0m", "é\u2028\0", "\ud800", "../../../etc/passwd", "<script>", "x" * 5000,
    "/dev/zero", [], [None], [[[]]], ["x"], {}, {"x": 1}, {"": None}, [1e400], "nan", "9" * 5000,
]  # fmt: skip


def other_value(path, choice):
    """Another value somewhere in JSON, in one or two places."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    at = choice.randrange(len(lines)) if lines else 0
    try:
        value = json.loads(lines[at])
    except (ValueError, IndexError):
        return flipped(path, choice)
    for _ in range(choice.randint(1, 2)):
        value = changed(value, choice.choice(list(places(value))), choice)
    lines[at] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return None


def places(value, path=()):
    """The paths of a plain value and of all values in it."""
    yield path
    children = value.items() if isinstance(value, dict) else ()
    for key, inside in enumerate(value) if isinstance(value, list) else children:
        yield from places(inside, (*path, key))


def changed(value, path, choice, odd=ODD):
    """A copy of a plain value with something else at a path: another value, none, or two."""
    if not path:
        return nested(choice) if choice.random() < 0.05 else choice.choice(odd)
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    how = choice.random()
    if rest or how < 0.75:
        copy[key] = changed(copy[key], rest, choice, odd)
    elif how < 0.92:
        del copy[key]
    elif isinstance(copy, list):
        copy.insert(key, copy[key])
    else:
        copy[misspelt(key, choice)] = copy.pop(key)
    return copy


def nested(choice):
    """A value deep inside others of its kind."""
    value, deep = 1, choice.choice([5, 60, 400])
    for _ in range(deep):
        value = [value] if choice.random() < 0.5 else {"a": value}
    return value


def misspelt(key, choice):
    """A key with a letter too few, too many, or another one."""
    if not isinstance(key, str) or not key:
        return "x"
    at = choice.randrange(len(key))
    return choice.choice(
        [key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key.upper(), key * 2]
    )

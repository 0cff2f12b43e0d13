"""Names of strangers' files, in messages."""

import pytest

from kclr.spec.wording import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Bild 1 ä 写真.png", "Bild 1 ä 写真.png"),
        ("\x1b]0;owned\x07\x1b[31m.png", r"\x1b]0;owned\x07\x1b[31m.png"),
        ("two\nlines\r\ttab", r"two\x0alines\x0d\x09tab"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        (b"caf\xe9.png".decode("utf-8", "surrogateescape"), r"caf\xe9.png"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_name_that_would_break_a_terminal_is_escaped(name, shown):
    assert printable(name) == shown
    printable(name).encode("utf-8")

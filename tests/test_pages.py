"""README and the other pages: Python runs, specs and commands are right, links lead somewhere."""

import re
import shlex
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml

import kclr
from kclr.arguments import parser
from kclr.spec import parse_spec
from kclr.spec.transfer import parse_transfer

pytestmark = pytest.mark.usefixtures("without_pictures")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += [ROOT / "configs/README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
SPEC = "stack: [{block: {filters: 64}, train: {steps: 2, batch_size: 32}}]"


def blocks(language, but=()):
    """The fenced blocks in a language, each with its page and line."""
    fence = re.compile(rf"^ *```{language}\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
    for name, text in TEXTS.items():
        for block in () if name in but else fence.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            searched = (language, name) == (
                "python",
                "docs/search.md",
            )  # as test_hypermodel.py does
            marks = pytest.mark.full if searched else ()
            yield pytest.param(block[1], id=f"{name}:{line}", marks=marks)


def commands():
    """The commands in blocks without a language or of a shell."""
    for block in blocks("(?:sh)?"):
        for line in map(str.strip, block.values[0].splitlines()):
            if re.match(r"kclr |(?:\./)?tools/", line):
                yield pytest.param(line, id=f"{block.id} {line}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    kclr.train(parse_spec(SPEC), folder / "runs" / "layer1")
    return folder


# Run on data of their kind in test_three_kinds.py.
KINDS = ["docs/bands.md", "docs/series.md", "docs/sound.md"]


@pytest.mark.parametrize("block", [*blocks("python", but=["CONTRIBUTING.md", *KINDS])])
def test_python_on_a_page_runs(block, place, monkeypatch):
    monkeypatch.chdir(place)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    few = re.sub(r'(steps_per_epoch=|"steps": )\d+', r"\g<1>2", block)
    exec(compile(few, "page", "exec"), {"images": images})


@pytest.mark.parametrize("block", [*blocks("yaml", but=["docs/spec.md"])])
def test_a_spec_on_a_page_is_right(block):
    read = yaml.safe_load(block)
    if "arms" in read:
        assert parse_transfer(block)
    else:
        assert parse_spec(yaml.safe_dump({"stack": [{}]} | read))


@pytest.mark.parametrize("line", [*commands()])
def test_a_command_on_a_page_can_be_given(line):
    program, *words = shlex.split(line, comments=True)
    if program == "kclr":
        parser(defaultdict(lambda: None)).parse_args(words)
    else:
        assert (ROOT / program).is_file()
    for word in words:
        assert not word.startswith("configs/") or (ROOT / word).is_file()


def anchors(text):
    """GitHub's names of a page's headings."""
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", TEXTS)
def test_links_of_a_page_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_in_the_index():
    index = TEXTS["docs/use.md"]
    for page in TEXTS:
        if page.startswith("docs/") and page != "docs/use.md":
            assert f"]({page.removeprefix('docs/')})" in index, page


def test_readme_is_short_and_begins_with_two_commands():
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 150
    assert [line.split()[0] for line in lines if line.startswith("./tools/")][:2] == [
        "./tools/quickstart",
        "./tools/test",
    ]

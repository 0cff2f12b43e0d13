"""Specs that nobody would write: each is taken or explained, and nothing else may happen.

A case is a valid spec (of a run, a transfer experiment, a search) changed in a few places, as plain
values and as text, with overrides as of `--set`. Anything but a finished spec or a `SpecError`
that can be shown in a terminal is a finding.
"""

import json
import math
import random
import re
import time
import traceback
import unicodedata
from pathlib import Path

import yaml
from damage import changed, places

from kclr.data.checks import with_sources
from kclr.errors import RunError, SpecError
from kclr.spec import findings
from kclr.spec.schema import Spec
from kclr.spec.transfer import TransferSpec

ROOT = Path(__file__).resolve().parents[2]
SLOW = 20.0  # seconds for one spec, on a busy machine; most take a thousandth
LONGEST = 1500  # characters of a line of a message
SMALL_TIMES = 6  # so that nine in ten are small
ODD = [
    None, True, False, 0, 1, -1, 2, 3.5, 0.5, 1e-300, 1e300, -1e300, float("nan"), float("inf"),
    10**9, 10**30, -(10**30), 10**400, "", " ", "x", "1", "1e3", "a.b", "photos", "triplet", "adam",
    "auto", "null", "~", "\0", "\x1b[2J", "é\u2028\u202e", "\ud800", "\U0001f600", "x" * 5000,
    "9" * 400, "9" * 5000, "folder:~\0", "folder:.", "folder:/nowhere", "folder:*.png", "tfds:",
    "tfds:nothing/1.0.0", "tfds:../..", "digits", "$HOME/x", "C:\\Users\\me", "evil:build",
    "applications:VGG16", "../../etc/passwd", "kmeans", "a: b", "- a", "#", "'", "*a", "&a", "!!x",
    [], [None], [[]], ["x"], [1, 2], [0.0, 1.0], {}, {"x": 1}, {"": None}, {"name": 3},
    {"class_name": None}, {"class_name": "Adam", "config": {"learning_rate": "x"}}, {"source": []},
    [{}], {"config": {"config": {}}}, {"learning_rate": {"class_name": []}}, {"name": "triplet"},
    {"float": [0, 1]}, {"int": [2, 1]}, {"choice": []}, {"boolean": True}, {"class_name": "Lambda"},
    {"module": "os", "class_name": "system", "config": {}}, {"class_name": "x" * 3000},
]  # fmt: skip
TAILS = ["=", "=3", "=x", ".x=1", ".class_name=x", ".0=1", "=[{}]", "=null", "=-1", "=1e400",
         "=.nan", "={a: 1}", "=[", "=!!python/none", "=*a", "=&a [*a]", "=\0", "=\ud800", " = 2",
         ".=1",
         ".99999999999=1", ".-1=1", "=" + "9" * 500, "", "=0x" + "f" * 5000,
         "=" + "[" * 300]  # fmt: skip
SNIPPETS = ["&a ", "*a", "<<: *a\n", "!!python/object:os.system ", "!!int ", "!!float ", "\t", "[",
            "]", "{", "}", ": ", "- ", "? ", "|", ">", "%YAML 1.1\n", "---\n", "...\n", "'", '"',
            "#", "\n", " ", "\x07", "\u2028", "\ufeff", "\x85", "é", "1_0", "0o17", "010", "1:30",
            "2020-01-01", ".inf", "~", "null", "yes", "[" * 2000, "{a: " * 200, "- " * 500,
            "&a [&b [*a, *b]]", "9" * 5000, "0x" + "f" * 4000, "\\", "\\x", "%"]  # fmt: skip


def originals():
    """Plain values of valid specs, with the class of each: those of configs/, and denser ones."""
    found = []
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "spec" in value or "sets" in value:  # of tools/experiments and tools/suite
            continue
        found.append((value, TransferSpec if "arms" in value else Spec))
    found += [(yaml.safe_load(text), Spec) for text in DENSE]
    found += [(yaml.safe_load(text), TransferSpec) for text in DENSE_TRANSFER]
    small = [(yaml.safe_load(text), Spec) for text in SMALL]
    small += [(yaml.safe_load(text), TransferSpec) for text in SMALL_TRANSFER]
    return found + small * SMALL_TIMES


DENSE = (
    """
name: run
data: {source: photos, tile: 64, channels: 1, limit: 100}
seed: 3
tensorboard: false
train: {end_to_end: false, distribute: none}
stack:
  - name: one
    block: {filters: 8, kernel_size: 3, strides: 1, padding: same, pool_size: 2, whitening: zca,
            whitening_epsilon: 0.1, contrast: patch, contrast_epsilon: 0.01, activation: relu}
    patches: {patch_size: 6, crop_size: 8, stride: 1, augment_views: positive,
              augment: [{class_name: RandomBrightness, config: {factor: 0.1}}, RandomFlip]}
    objective: {name: triplet, margin: 1.0, mining: all}
    embedding: {pool: grid, grid_size: 2, standardize: true, head: [8, 4]}
    train: {steps: 50, jit: auto, batch_size: 16, log_every: 5, precision: float32, reseed: true,
            checkpoint_seconds: 5, on_collapse: warn, decorrelation: 0.1,
            optimizer: {class_name: AdamW, config: {weight_decay: 0.01, learning_rate: {class_name:
            CosineDecay, config: {initial_learning_rate: 0.1, decay_steps: 0.5}}}}}
  - learner: {name: kmeans, windows: 1000, threshold: 0.5}
    block: {filters: 8}
  - data: photos
    patches: {max_shift: 2}
    objective: {name: ntxent, temperature: 0.2}
export: {pool: grid, onnx: false, all_layers: true, power: [0.5, 1, 1], grid_size: 2}
probe: {data: digits, every: 10, limit: 100, labels: 0.5, classifier: ridge, grid: 2, power: 0.5}
""",
    """
data: {source: photos, channels: 1, tile: 32, limit: 200}
probe: {data: digits, limit: 200}
stack:
  - block: {filters: 6, kernel_size: 3}
    learner: {name: patches, windows: 500}
  - block: {filters: 6}
    objective: {name: infonce, temperature: 0.1}
    train: {steps: 20, batch_size: 8}
search:
  space:
    stack.1.block.filters: {choice: [2, 4, 9], also: [stack.0.block.filters]}
    stack.1.objective.temperature: {float: [0.1, 1.0], sampling: log, when: {stack.1.block.filters:
                                    [2, 4]}}
    stack.1.train.reseed: {boolean: true}
    stack.1.learner.name: {choice: [contrastive, kmeans]}
  tuner: {name: hyperband, factor: 2, rounds: 2}
  objective: {metric: loss, direction: min}
  trials: 3
  minutes: 5
  keep: 2
  layers: together
""",
)
DENSE_TRANSFER = (
    """
name: t
title: T
data: digits
limit: 100
test_limit: 50
seed: 1
scale: true
pretrained: configs/layer1.yaml
classifier: {name: zhao, filters: [4, 4], dense_units: 4}
arms: [random start, k-means, LSUV, kclr frozen, kclr fine-tuned]
labels: [2, 0.5]
repeats: 2
train: {epochs: 1, batch_size: 8, min_steps: 10, precision: float32,
        optimizer: {class_name: SGD, config: {momentum: 0.9}}}
""",
)


# Of one section each, so that a change meets it, and thousands are tried in a minute.
SMALL = (
    "{name: a, data: {source: photos, tile: 64, channels: 1, limit: 9}, seed: 3, stack: [{}]}",
    "stack: [{block: {filters: 8, kernel_size: 3, strides: 1, padding: same, pool_size: 2}}]",
    "stack: [{block: {whitening: zca, whitening_epsilon: 0.1, contrast: patch, use_bias: false}}]",
    "stack: [{patches: {patch_size: 7, crop_size: 9, stride: 1, augment: [RandomFlip]}}]",
    "stack: [{patches: {max_shift: 2, augment: [{class_name: RandomBrightness, config: "
    "{factor: 0.1}}], augment_views: positive}}]",
    "stack: [{objective: {name: triplet, margin: 1.0, mining: all, distance: cosine}}, {}]",
    "stack: [{objective: {name: infonce, temperature: 0.1, learn_temperature: true}}]",
    "stack: [{objective: vicreg, embedding: {pool: grid, grid_size: 2, head: [8]}}]",
    "stack: [{learner: {name: kmeans, windows: 1000, threshold: 0.5}}]",
    "stack: [{train: {epochs: 2, batch_size: 16, crops_per_image: 2, jit: auto, log_every: 5}}]",
    "stack: [{train: {steps: 9, optimizer: {class_name: AdamW, config: {weight_decay: 0.1}}}}]",
    "stack: [{train: {steps: 9, optimizer: {class_name: SGD, config: {learning_rate: {class_name: "
    "CosineDecay, config: {initial_learning_rate: 0.1, warmup_steps: 0.1}}}}}}]",
    "{stack: [{}], export: {pool: grid, grid_size: 3, power: 0.5, all_layers: true, onnx: false}}",
    "{stack: [{}], probe: {data: digits, every: 10, labels: 0.5, classifier: knn, grid: 2}}",
    "{stack: [{}, {}], train: {end_to_end: true, distribute: none}, tensorboard: false}",
    "{stack: [{}], probe: digits, search: {space: {stack.0.block.filters: {int: [2, 9]}}}}",
    "{stack: [{}], search: {space: {stack.0.objective.margin: {float: [0.1, 1], sampling: log}}, "
    "objective: loss, tuner: {name: bayesian, initial: 3}}}",
)
SMALL_TRANSFER = (
    "{data: digits, arms: [random start, LSUV], labels: [2, 0.5], repeats: 2, seed: 1}",
    "{data: digits, arms: [kclr frozen], pretrained: configs/layer1.yaml, scale: false, layers: 1}",
    "{data: digits, arms: [k-means], classifier: {name: resnet, depth: 8}, train: {epochs: 1}}",
    "{data: digits, arms: [random start], train: {optimizer: {class_name: SGD, config: {momentum: "
    "0.9}}, batch_size: 8, min_steps: 10}, limit: 100}",
)


class Specs:
    """Fuzzed specs by their numbers; `case(number)` gives what is wrong with one, or None."""

    def __init__(self):
        # Paths are looked for once: most of the time would go into walking through the values.
        self.originals = [(value, root, list(places(value))) for value, root in originals()]
        self.texts = [yaml.safe_dump(value, sort_keys=False) for value, _, _ in self.originals]

    def make(self, number):
        """Text, overrides and class of a spec."""
        choice = random.Random(number)
        which = choice.randrange(len(self.originals))
        value, root, paths = self.originals[which]
        text = None
        how = choice.random()
        if how < 0.7:
            for _ in range(choice.choices((0, 1, 2, 4), (1, 6, 3, 1))[0]):
                value = changed(value, choice.choice(paths), choice, ODD)
                paths = list(places(value))
            text = as_yaml(value)
        if text is None or how < 0.1:
            text = mangled(text or self.texts[which], choice)
        overrides = [
            ".".join(map(str, choice.choice(paths))) + choice.choice(TAILS)
            for _ in range(choice.choices((0, 1, 2), (5, 3, 1))[0])
        ]
        if choice.random() < 0.02:
            overrides.append(mangled("stack.0.train.steps=200", choice))
        return text, overrides, root

    def case(self, number) -> str | None:
        """What is wrong with the answer to a fuzzed spec: nothing, or a line or a trace."""
        text, overrides, root = self.make(number)
        began = time.monotonic()
        try:
            draft = findings.draft(text, overrides, "spec", root)
            if draft.spec is not None and root is Spec and number % 4 == 0:
                with_sources(draft)
            elif draft.spec is not None and root is TransferSpec and number % 4 == 0:
                from kclr.transfer import checks

                draft.findings += checks.findings(draft.spec)
            spec = draft.finished()
            if number % 8 == 0:
                wrong = _not_the_same(spec, root)
                if wrong:
                    return wrong
        except SpecError as error:
            wrong = _message(str(error))
            if wrong:
                return wrong
        except RunError as error:
            return f"a RunError: {error}"
        except BaseException:
            return traceback.format_exc()
        seconds = time.monotonic() - began
        return f"it took {seconds:.0f} s" if seconds > SLOW else None


def _not_the_same(spec, root):
    """What a finished spec has lost when it was written as resolved.yaml and read again."""
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    again = findings.draft(text, (), "resolved.yaml", root)
    if again.spec != spec and not _has_nan(spec.model_dump(mode="json")):
        words = findings.refusal("resolved.yaml", again.findings) if again.findings else ""
        return f"resolved.yaml is another spec. {words}"
    return None


def _has_nan(value):
    if isinstance(value, dict | list | tuple):
        return any(map(_has_nan, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isnan(value)


# Control characters, those that turn the direction of writing, line separators, half characters.
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Cs")
_PLACE = re.compile(r"^(spec|value)\b|^\S+: |^'|^  ", re.DOTALL)


def _message(words):
    """What is wrong with a message: it has to be short, printable, and say where."""
    lines = words.split("\n")
    if max(map(len, lines)) > LONGEST:
        return f"a long line: {max(map(len, lines))} characters: {words[:200]!r}"
    odd = [c for c in words if c not in "\n\t" and unicodedata.category(c) in _UNSEEN]
    if odd:
        return f"a message with control characters: {odd[0]!r} in {words[:200]!r}"
    if not words.strip() or not _PLACE.match(words):
        return f"no place: {words[:200]!r}"
    return None


def as_yaml(value):
    """A plain value as YAML, ten times as fast as PyYAML writes it; None where that cannot be."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        return None
    text = re.sub(r"\bNaN\b", ".nan", text)
    return re.sub(r"(-?)\bInfinity\b", r"\1.inf", text)


def mangled(text, choice):
    """A text with a few pieces left out, doubled, moved or replaced by others."""
    for _ in range(choice.choices((1, 2, 5), (5, 3, 1))[0]):
        at = choice.randrange(len(text) + 1)
        to = min(len(text), at + choice.choice((0, 1, 3, 20)))
        new = choice.choice(SNIPPETS)
        how = choice.random()
        if how < 0.2:
            new = ""
        elif how < 0.4:
            new = text[at:to] * 2
        elif how < 0.5:
            new = chr(choice.choice((choice.randrange(0xD800), choice.randrange(256))))
        text = text[:at] + new + text[to:]
    return text

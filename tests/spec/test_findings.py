"""Each kind of mistake in a spec has its words, its place and its cure, and all come at once."""

import pytest

from kclr.data.checks import load_checked
from kclr.errors import SpecError
from kclr.spec import load_spec, parse_spec


def findings(text):
    """The lines of a refusal, without the first."""
    with pytest.raises(SpecError) as error:
        parse_spec(text, name="my.yaml")
    first, *rest = str(error.value).splitlines()
    count = "1 error" if len(rest) == 1 else f"{len(rest)} errors"
    assert first == f"my.yaml: {count}"
    return [line.strip() for line in rest]


def in_layer(inside):
    """What is said about a layer, without where."""
    (line,) = findings(f"stack:\n  - {inside}\n")
    place, _, rest = line.partition(", stack.0.")
    assert place == "line 2"
    return rest


def in_train(inside):
    return in_layer(f"train: {{{inside}}}").removeprefix("train.")


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        # Unknown keys.
        ("blok: {}", "blok: unknown key. Did you mean 'block'?"),
        ("block: {kernel: 3}", "block.kernel: unknown key. Did you mean 'kernel_size'?"),
        ("block: {FILTERS: 3}", "block.FILTERS: unknown key. Did you mean 'filters'?"),
        ("zzz: {}", "zzz: unknown key. Choose from name, block, learner, patches, objective, "
         "embedding, train, data."),
        ("filters: 3", "filters: unknown key. It belongs under block.filters."),
        ("margin: 3", "margin: unknown key. It belongs under objective.margin."),
        ("seed: 3", "seed: unknown key. It belongs higher up, next to stack."),
        ("1: 3", "1: unknown key. Choose from name, block, learner, patches, objective, "
         "embedding, train, data."),
        ("on: 3", "on: unknown key. Choose from name, block, learner, patches, objective, "
         "embedding, train, data."),
        # Types.
        ("block: 3", "block: 3 is not a mapping. Use keys and values, as in {filters: ...}."),
        ("block: null", "block: null is not a mapping. Remove the key, or use keys and values, "
         "as in {filters: ...}."),
        ("block: [3]", "block: [3] is not a mapping."),
        ("block: {filters: many}", "block.filters: 'many' is not a whole number. Use 1 to 65536."),
        ("block: {filters: '64'}", "block.filters: '64' is not a whole number. Write 64, without "
         "quotes."),
        ("block: {filters: true}", "block.filters: true is not a whole number. Use 1 to 65536."),
        ("block: {filters: 64.0}", "block.filters: 64.0 is not a whole number. Write 64."),
        ("block: {filters: 6.4}", "block.filters: 6.4 is not a whole number. Use 1 to 65536."),
        ("block: {filters: null}", "block.filters: null is not a whole number. Remove the key, or "
                                   "use 1 to 65536."),
        ("block: {filters: [3, 3]}", "block.filters: [3, 3] is not a whole number."),
        ("block: {whitening_epsilon: small}", "block.whitening_epsilon: 'small' is not a number. "
         "Use more than 0 and at most 10."),
        ("block: {whitening_epsilon: .nan}",
         "block.whitening_epsilon: nan is not a finite number."),
        ("block: {use_bias: 1}", "block.use_bias: 1 is not allowed. Use true or false."),
        ("block: {activation: 3}", "block.activation: 3 is not text. Put it in quotes: '3'."),
        ("name: 7", "name: 7 is not text. Put it in quotes: '7'."),
        ("patches: {augment: RandomFlip}", "patches.augment: 'RandomFlip' is not a list. Write "
         "[RandomFlip]."),
        ("patches: {augment: {class_name: RandomFlip}}", "patches.augment: {class_name: "
         "'RandomFlip'} is not a list. Begin each item with a dash: `- ...`."),
        # Ranges.
        ("block: {filters: 0}", "block.filters: 0 is out of range. Use 1 to 65536."),
        ("block: {filters: -3}", "block.filters: -3 is out of range. Use 1 to 65536."),
        ("block: {kernel_size: 1025}", "block.kernel_size: 1025 is out of range. Use 1 to 1024."),
        # Sizes.
        ("block: {kernel_size: 3x9}", "block.kernel_size: '3x9' is not a size. Write [3, 9]."),
        ("block: {kernel_size: 3 x 3}", "block.kernel_size: '3 x 3' is not a size. Write 3."),
        ("block: {kernel_size: [3]}",
         "block.kernel_size: [3] has 1 number. Use one, or two: [height, width]."),
        ("block: {kernel_size: [3, 3, 3]}",
         "block.kernel_size: [3, 3, 3] has 3 numbers. Use one, or two: [height, width]."),
        ("block: {kernel_size: [3, 1025]}",
         "block.kernel_size.1: 1025 is out of range. Use 1 to 1024."),
        ("block: {kernel_size: [3, '9']}",
         "block.kernel_size.1: '9' is not a whole number. Write 9, without quotes."),
        ("block: {kernel_size: wide}",
         "block.kernel_size: 'wide' is not a whole number. Use 1 to 1024."),
        ("block: {kernel_size: {height: 3}}", "block.kernel_size: {height: 3} is not a whole "
         "number. Use 1 to 1024, or [height, width]."),
        ("patches: {patch_size: [1, 1]}",
         "patches.patch_size: [1, 1] is out of range. Use 2 or more on one side."),
        ("patches: {max_shift: [0, 0]}",
         "patches.max_shift: [0, 0] is out of range. Use 1 or more on one side."),
        (f"block: {{filters: {'9' * 40}}}", "block.filters: a very large number is out of range. "
         "Use 1 to 65536."),
        ("block: {whitening_epsilon: 0}", "block.whitening_epsilon: 0 is out of range. Use more "
         "than 0 and at most 10."),
        ("patches: {patch_size: 1}", "patches.patch_size: 1 is out of range. Use 2 to 65536."),
        ("train: {epochs: 0}", "train.epochs: 0 is out of range. Use 1 to 2147483647."),
        ("objective: {margin: .inf}", "objective.margin: inf is not a finite number."),
        # Choices.
        ("block: {padding: vald}", "block.padding: 'vald' is not allowed. Did you mean 'valid'?"),
        ("block: {padding: 3}", "block.padding: 3 is not allowed. Choose from valid, same."),
        ("block: {whitening: pca}", "block.whitening: 'pca' is not allowed. Did you mean 'zca'?"),
        ("train: {jit: maybe}",
         "train.jit: 'maybe' is not allowed. Choose from true, false, auto."),
        ("block: {activation: rellu}", "block.activation: 'rellu' is not known to Keras. Did you "
         "mean 'relu'?"),
        ("name: my layer", "name: 'my layer' is not a valid name. Use up to 64 letters, digits"),
        # Two keys for one thing.
        ("train: {epochs: 3, steps: 5}",
         "train.steps: cannot be combined with `epochs`. Keep one"),
        ("patches: {stride: 1, max_shift: 2}", (
            "patches.max_shift: cannot be combined with `stride`."
        )),
        # Objectives.
        ("objective: tripled",
         "objective: 'tripled' is not a known objective. Did you mean 'triplet'?"),
        ("objective: {name: tripled}", "objective.name: 'tripled' is not a known objective. Did "
                                       "you mean 'triplet'?"),
        ("objective: 3", "objective: 3 is not a valid objective. Use "),
        ("objective: {name: [a]}", "objective.name: ['a'] is not a valid objective."),
        ("objective: {margn: 3}", "objective.margn: unknown key. Did you mean 'margin'?"),
        ("objective: {mining: semihard}", "objective.mining: 'semihard' is not allowed. Did you "
         "mean 'semi-hard'?"),
        ("objective: {name: triplet, margin: '2'}", "objective.margin: '2' is not a number. Write "
         "2, without quotes."),
        # Sources.
        ("data: fotos", "data: 'fotos' is not a known source. Did you mean 'photos'?"),
        ("data: xyz",
         "data: 'xyz' is not a known source. Did you mean tfds:xyz, or the folder ./xyz? Choose "
         "from array:FILE, audio:PATH, digits, folder:PATH, photos, series:FILE, tfds:NAME, "
         "video:PATH."),
        ("data: tfds", "data: 'tfds' needs an argument. Write tfds:NAME."),
        ("data: {sorce: photos}", "data.sorce: unknown key. Did you mean 'source'?"),
        ("data: {tile: 3}", "data: has no key 'source'. Add it, as in source: folder:PATH."),
        ("data: {source: tfsd:cifar10}", "data.source: 'tfsd' is not a known source. Did you mean "
         "'tfds'?"),
        ("data: {source: photos, tiles: 3}", "data.tiles: unknown key. Did you mean 'tile'?"),
        ("data: {source: photos, split: test}", "data.split: unknown key. Choose from source"),
        ("data: {source: photos, channels: 0}",
         "data.channels: 0 is out of range. Use 1 to 65536."),
        ("data: {source: 'tfds:cifar10', split: 3}", "data.split: 3 is not text."),
        ("data: [photos]", "data: ['photos'] cannot be used together. Use several of one kind"),
    ],
)  # fmt: skip
def test_each_kind_of_mistake_has_its_words(inside, expected):
    assert in_layer(inside).startswith(expected)


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("optimizer: adm", "optimizer: 'adm' is not known to Keras. Did you mean 'Adam'?"),
        ("optimizer: {class_name: Adm}", "optimizer.class_name: 'Adm' is not known to Keras."),
        ("optimizer: {config: {}}", "optimizer.class_name: is missing. Add it, as in class_name: "
         "Adam."),
        ("optimizer: {class_name: Adam, confg: {}}", "optimizer.confg: unknown key. Did you mean "
         "'config'?"),
        ("optimizer: {class_name: Adam, config: 3}", "optimizer.config: 3 is not a mapping. Use a "
         "mapping."),
        ("optimizer: {class_name: Adam, learning_rate: 3}", "optimizer.learning_rate: unknown key. "
         "It belongs under config.learning_rate."),
        ("learning_rate: 3", "learning_rate: unknown key. It belongs under "
         "optimizer.config.learning_rate."),
        ("lr: 3", "lr: unknown key. It belongs under optimizer.config.learning_rate."),
        ("optimizer: {class_name: Adam, config: {learning_rat: 1}}",
         "optimizer.config.learning_rat: "
         "unknown argument of Adam. Did you mean 'learning_rate'?"),
        ("optimizer: {class_name: sgd, config: {beta_1: 1}}",
         "optimizer.config.beta_1: unknown argument of "
         "SGD."),
        ("optimizer: {class_name: Adam, config: {learning_rate: -1}}",
         "optimizer.config.learning_rate: -1 is not allowed. Use a number above 0, up to "
         "1,000,000, or a schedule: its name, or a mapping with class_name and config."),
        ("optimizer: {class_name: Adam, config: {learning_rate: true}}",
         "optimizer.config.learning_rate: true is not allowed."),
        ("optimizer: {class_name: Adam, config: {learning_rate: .nan}}",
         "optimizer.config.learning_rate: nan is not allowed."),
        ("optimizer: {class_name: Adam, config: {weight_decay: many}}",
         "optimizer.config.weight_decay: 'many' is not allowed. Use a number, 0 or more, or null."),
        ("optimizer: {class_name: Adam, config: {beta_1: 1.0}}",
         "optimizer.config.beta_1: 1.0 is not allowed. Use a number from 0 to below 1."),
        ("optimizer: {class_name: Adam, config: {clipnorm: 1, clipvalue: 1}}",
         "optimizer.config.clipvalue: cannot be combined with `clipnorm`. Keep one."),
        ("optimizer: {class_name: Adam, config: {ema_overwrite_frequency: 3.0}}",
         "optimizer.config.ema_overwrite_frequency: 3.0 is not allowed. Write 3, without a decimal "
         "point, or use a whole number, 1 or more, or null."),
        ("optimizer: {class_name: Adam, config: {learning_rate: {class_name: CosinDecay}}}",
         "optimizer.config.learning_rate.class_name: 'CosinDecay' is not known to Keras. Did you "
         "mean 'CosineDecay'?"),
        ("optimizer: {class_name: Adam, config: {learning_rate: CosineDecay}}",
         "optimizer.config.learning_rate: CosineDecay needs the argument 'initial_learning_rate'."),
        ("optimizer: {class_name: Adam, config: {learning_rate: {class_name: CosineDecay, config: "
         "{initial_learning_rate: 1, alfa: 0.1}}}}",
         "optimizer.config.learning_rate.config.alfa: unknown argument of CosineDecay. Did you "
         "mean 'alpha'?"),
    ],
)  # fmt: skip
def test_objects_of_keras_are_checked_down_to_their_arguments(inside, expected):
    assert in_train(inside).startswith(expected)


@pytest.mark.parametrize("steps", ["450.0", "1.5", "-0.1", ".nan", "true", "all", "0"])
def test_steps_with_a_decimal_point_are_a_share_or_refused(steps):
    config = f"{{initial_learning_rate: 0.1, decay_steps: {steps}}}"
    rate = f"{{class_name: CosineDecay, config: {config}}}"
    found = in_train(f"optimizer: {{class_name: Adam, config: {{learning_rate: {rate}}}}}")
    assert found.startswith("optimizer.config.learning_rate.config.decay_steps: ")
    assert "a share of all steps with a decimal point (0.5, 1.0)" in found
    assert ("Write 450, without a decimal point" in found) == (steps == "450.0")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{boundaries: [0.5], values: [0.1]}", "values: 1 for 1 boundaries. Use 2, one more"),
        (
            "{boundaries: [0.7, 0.5], values: [3, 2, 1]}",
            "boundaries: [0.7, 0.5] is not increasing.",
        ),
        ("{boundaries: [500, 20], values: [3, 2, 1]}", "boundaries: [500, 20] is not increasing."),
    ],
)
def test_boundaries_and_values_of_a_schedule_fit_each_other(config, expected):
    rate = f"{{class_name: PiecewiseConstantDecay, config: {config}}}"
    found = in_train(f"optimizer: {{class_name: Adam, config: {{learning_rate: {rate}}}}}")
    assert found.startswith(f"optimizer.config.learning_rate.config.{expected}")


def test_augmentations_that_cannot_be_are_named_with_the_cure():
    assert in_layer("patches: {augment: [Equalization]}").startswith(
        "patches.augment.0: Equalization equalizes all images of a batch together. Use AutoContr"
    )
    augment = "{augment: [{class_name: RandomRotation, config: {factor: 0.1}}]}"
    assert in_layer(f"{{patches: {augment}, train: {{jit: true}}}}") == (
        "train.jit: XLA cannot compile RandomRotation. Use auto or false."
    )


def test_augmentations_are_checked_down_to_their_arguments():
    assert in_layer("patches: {augment: [RandomFlp]}").startswith(
        "patches.augment.0: 'RandomFlp' is not known to Keras. Did you mean 'RandomFlip'?"
    )
    assert in_layer("patches: {augment: [{class_name: RandomBrightness}]}").startswith(
        "patches.augment.0.config: RandomBrightness needs the argument 'factor'."
    )
    assert in_layer(
        "patches: {augment: [RandomFlip, {class_name: RandomHue, config: {factr: 1}}]}"
    ) == ("patches.augment.1.config.factr: unknown argument of RandomHue. Did you mean 'factor'?")


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("{block: {kernel_size: 9}, patches: {patch_size: 6}}",
         "patches.patch_size: 6 is smaller than the kernel (9). Use at least 10, or a smaller "
         "kernel_size."),
        ("{block: {kernel_size: 6, pool_size: 4}, patches: {patch_size: 7}}",
         "patches.patch_size: the patch is too small for the max-pool: 7 leaves 2 cells after the "
         "convolution, fewer than the max-pool's 4. Use at least 9, or a smaller pool_size."),
        ("{patches: {patch_size: 7, crop_size: 7}}",
         (
             "patches.crop_size: 7 has room for a single patch of 7. Use at least 8, so that two "
             "patches fit."
         )),
        ("{patches: {patch_size: 7, crop_size: 6}}",
         (
             "patches.crop_size: 6 has room for no patch of 7. Use at least 8, so that two "
             "patches fit."
         )),
        ("{patches: {patch_size: 7, stride: 7}}",
         "patches.stride: 7 leaves no overlap between patches of 7. Use 1 to 6."),
        ("{patches: {patch_size: 7, max_shift: 9}}",
         "patches.max_shift: 9 allows patches of 7 that do not overlap. Use 1 to 6."),
        ("{patches: {patch_size: 7, max_shift: 2, crop_size: 20}}",
         "patches.crop_size: 20 is not the patch plus the largest shift (7 + 2). Remove it."),
        ("{block: {kernel_size: [3, 9]}, patches: {patch_size: 6}}",
         "patches.patch_size: in width, 6 is smaller than the kernel (9). Use at least 10, or a "
         "smaller kernel_size."),
        ("{patches: {patch_size: [7, 9], stride: [7, 1]}}",
         "patches.stride: in height, 7 leaves no overlap between patches of 7. Use 1 to 6."),
        ("{patches: {patch_size: [7, 9], crop_size: [6, 12]}}",
         "patches.crop_size: in height, 6 has room for no patch of 7. Use at least 8, so that two "
         "patches fit."),
        ("{block: {kernel_size: [1, 9], pool_size: [1, 2]}, patches: {patch_size: [1, 16], "
         "max_shift: 4}}",
         "patches.max_shift: in height, 4 allows patches of 1 that do not overlap. Use [0, 4]."),
        ("{block: {kernel_size: [1, 9], pool_size: [1, 2]}, patches: {patch_size: [1, 16], "
         "crop_size: 18}}",
         "patches.crop_size: in height, patches of 1 do not overlap in 18. Use 1."),
    ],
)  # fmt: skip
def test_impossible_sizes_are_explained(inside, expected):
    assert in_layer(inside) == expected


def test_a_patch_at_layer_3_that_has_shrunk_to_nothing_is_found():
    text = """\
stack:
  - {}
  - {}
  - block: {kernel_size: 3, pool_size: 3}
    patches: {patch_size: 4}
"""
    assert findings(text) == [
        "line 5, stack.2.patches.patch_size: the patch is too small for the max-pool: 4 leaves 2 "
        "cells after the convolution, fewer than the max-pool's 3. Use at least 5, or a smaller "
        "pool_size."
    ]


def test_layers_of_one_name_are_found():
    text = "stack:\n  - {name: a}\n  - {}\n  - {name: A}\n"
    assert findings(text) == [
        "line 4, stack.2.name: 'A' is also the name of layer 0. Use different names."
    ]


WRONG = """\
name: my run
data: {source: photos, tile: 3.5}
sed: 3
stack:
  - name: conv1
    block:
      filters: "64"
      kernel_size: 9
      padding: vald
    patches: {patch_size: 5, stride: 1}
    objective: {name: triplett}
    train:
      epochs: 0
      optimizer:
        class_name: Adam
        config: {learning_rat: 0.1}
  - name: conv1
    blok: {filters: 3}
  - patches: {crop_size: 2, patch_size: 4, size: 3}
    block: {pool_size: 9, pool_size: 2}
export: {pool: meen}
"""


def test_a_wrong_spec_of_20_lines_gets_all_its_errors_at_once():
    assert findings(WRONG) == [
        "line 1, name: 'my run' is not a valid name. Use up to 64 letters, digits, '.', '_' and "
        "'-', starting with a letter or a digit.",
        "line 2, data.tile: 3.5 is not a whole number. Use 2 to 1048576.",
        "line 3, sed: unknown key. Did you mean 'seed'?",
        "line 7, stack.0.block.filters: '64' is not a whole number. Write 64, without quotes.",
        "line 9, stack.0.block.padding: 'vald' is not allowed. Did you mean 'valid'?",
        "line 10, stack.0.patches.patch_size: 5 is smaller than the kernel (9). Use at least 10, "
        "or a smaller kernel_size.",
        "line 11, stack.0.objective.name: 'triplett' is not a known objective. Did you mean "
        "'triplet'?",
        "line 13, stack.0.train.epochs: 0 is out of range. Use 1 to 2147483647.",
        "line 16, stack.0.train.optimizer.config.learning_rat: unknown argument of Adam. Did "
        "you mean 'learning_rate'?",
        "line 17, stack.1.name: 'conv1' is also the name of layer 0. Use different names.",
        "line 18, stack.1.blok: unknown key. Did you mean 'block'?",
        "line 19, stack.2.patches.size: unknown key. Choose from alike, patch_size, crop_size, "
        "stride, max_shift, augment, augment_views.",
        "line 20, stack.2.block.pool_size: duplicate key. Remove one of the two.",
        "line 21, export.pool: 'meen' is not allowed. Did you mean 'mean'?",
    ]


def test_a_refusal_says_in_python_which_keys_are_wrong():
    with pytest.raises(SpecError) as error:
        parse_spec("stack:\n  - blok: {}\n  - name: 3", ["seed=x"])
    paths = {found.path: found.message for found in error.value.findings}
    assert paths.keys() == {("stack", 0, "blok"), ("stack", 1, "name"), ("seed",)}
    assert paths["stack", 0, "blok"] == "unknown key. Did you mean 'block'?"


def test_nothing_is_said_about_sizes_that_depend_on_a_misspelt_key():
    assert findings("stack: [{block: {kernal_size: 3}, patches: {patch_size: 4}}]") == [
        "line 1, stack.0.block.kernal_size: unknown key. Did you mean 'kernel_size'?"
    ]


def test_a_misspelt_layer_does_not_hide_the_next_ones():
    text = "stack:\n  - 3\n  - {patches: {patch_size: 7, stride: 9}}\n"
    assert [line.partition(": ")[0] for line in findings(text)] == [
        "line 2, stack.0",
        "line 3, stack.1.patches.stride",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the spec is empty. `kclr init` writes one to start from."),
        ("# only a comment\n", "the spec is empty."),
        ("hello", "a spec is a mapping with the key `stack`, not 'hello'."),
        ("- block: {}", "a spec is a mapping with the key `stack`, not [{block: {}}]."),
        ("seed: 3", "stack: is missing. Add it: a list of the layers to learn"),
        ("stack: {block: {}}", "line 1, stack: {block: {}} is not a list. Begin each item with a "
         "dash: `- ...`."),
        ("stack:", "line 1, stack: null is not a list."),
        ("stack: []", "line 1, stack: [] is too short. Use at least 1."),
        (f"stack: [{'{}, ' * 40}]", "line 1, stack: has too many items: 40. Use at most 32."),
        ("layers: [{}]\nstack: [{}]", "line 1, layers: unknown key. Did you mean 'stack'?"),
    ],
)  # fmt: skip
def test_a_spec_of_a_wrong_form_is_explained(text, expected):
    assert findings(text)[-1].startswith(expected)


def test_files_that_cannot_be_read_are_named(tmp_path):
    def refusal(path):
        with pytest.raises(SpecError) as error:
            load_spec(path)
        return str(error.value)

    (tmp_path / "layer1.yaml").write_bytes(b"\xef\xbb\xbfstack:\r\n  - {}\r\n")
    assert load_spec(tmp_path / "layer1.yaml").stack
    assert refusal(tmp_path / "layr1.yaml").endswith(
        f"layr1.yaml: file not found. Did you mean {tmp_path / 'layer1.yaml'}?"
    )
    assert refusal(tmp_path / "nowhere" / "x.yaml").endswith(
        "`kclr init` writes one to start from."
    )
    assert "is a directory" in refusal(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"stack:\n  - name: caf\xe9\n")
    assert refusal(tmp_path / "latin.yaml").endswith(
        "latin.yaml:2: not UTF-8 text. Save the file as UTF-8."
    )
    (tmp_path / "wide.yaml").write_bytes("stack: [{}]".encode("utf-16"))
    assert "UTF-8" in refusal(tmp_path / "wide.yaml")


def test_a_resolved_spec_is_a_spec_that_resolves_to_itself():
    import yaml

    text = """
    stack:
      - {}
      - block: {kernel_size: 1, pool_size: 1, whitening: true}
        patches: {max_shift: 1, augment: [RandomFlip]}
        objective: {margin: 1}
        train: {epochs: 2, optimizer: {class_name: adam, config: {learning_rate: {class_name:
                CosineDecay, config: {initial_learning_rate: 0.1}}}}}
        data: {source: "tfds:cifar10", split: test}
    """
    spec = parse_spec(text)
    written = yaml.safe_dump(spec.model_dump(mode="json"))
    assert parse_spec(written) == spec


def test_a_spec_cannot_be_changed():
    spec = parse_spec("stack: [{}]")
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        spec.stack[0].block.filters = 3


@pytest.mark.parametrize("section", ["export", "probe"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("power: 0", "0 is not possible. Use a number above 0, up to 1, or a list"),
        ("power: true", "true is not possible. Use a number above 0"),
        ("power: [0.5, 2], all_layers: true", "[0.5, 2] is not possible. Use a number above 0"),
        ("power: [0.5, 1]", "is 2 numbers for the top layer. Use one number, or add all_layers"),
    ],
)
def test_powers_are_above_0_and_up_to_1_and_one_for_each_layer(section, options, words):
    with pytest.raises(SpecError) as caught:
        parse_spec(f"stack: [{{}}, {{}}]\n{section}: {{data: digits, {options}}}")
    assert f"{section}.power: " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(("section", "key"), [("export", "grid_size"), ("probe", "grid")])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{grid_size: [3, 2]}", "is 2 numbers for the top layer. Use one number, or add all_"),
        ("{grid_size: [3], all_layers: true}", "is 1 number for 2 layers. Use one number, or a"),
        ("{grid_size: [3, 0], all_layers: true}", "[3, 0] is not possible. Use a whole number, 1"),
        ("{grid_size: two}", "'two' is not possible. Use a whole number, 1 to 64"),
        ("{grid_size: true}", "true is not possible. Use a whole number, 1 to 64"),
    ],
)
def test_grids_are_one_for_each_layer(section, key, options, words):
    data = "data: digits, " if section == "probe" else ""
    options = options.replace("{grid_size", f"{{{data}{key}")
    with pytest.raises(SpecError) as caught:
        parse_spec(f"stack: [{{}}, {{}}]\n{section}: {options}")
    assert f"{section}.{key}: " in str(caught.value)
    assert words in str(caught.value)
    assert parse_spec(f"stack: [{{}}, {{}}]\n{section}: {{{data}{key}: [3, 2], all_layers: true}}")


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("$HOME/pictures", "Variables are not expanded in a spec."),
        ("'%USERPROFILE%/pictures'", "Variables are not expanded in a spec."),
        ("pictures/*.png", "Patterns are not expanded. Name the folder"),
        ('"C:\\new/pictures"', "Use single quotes, as in 'C:\\pictures'."),
    ],
)
def test_what_only_a_shell_reads_in_a_path_is_said(tmp_path, path, cure):
    spec = tmp_path / "my.yaml"
    spec.write_text(f"data: {path}\nstack: [{{}}]")
    with pytest.raises(SpecError) as error:
        load_checked(spec)
    assert "folder not found." in str(error.value)
    assert cure in str(error.value)


def test_letters_that_a_terminal_obeys_are_never_printed():
    with pytest.raises(SpecError) as error:
        parse_spec('"bl\\e[31mock": 1\nstack: "\\x7f"')
    assert str(error.value).replace("\n", "").isprintable()

"""What cannot be learned from, and layers that are of no use, are refused with their reason."""

import numpy as np
import pytest
from PIL import Image

from kclr.data.sources import as_images
from kclr.errors import CollapseError, RunError
from kclr.events import Listener
from kclr.health import Learned, check_images, check_input, check_learned, fault
from kclr.runs.run import PlainLayer
from kclr.spec import parse_spec
from kclr.spec.geometry import layer_geometry
from kclr.spec.registry import parts
from kclr.stack import train

pytestmark = pytest.mark.usefixtures("without_pictures")

LEARNERS = sorted(set(parts("learner")) - {"run"})
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)
ANSWERS = np.random.default_rng(1).normal(size=(50, 5))
BLACK = np.zeros((8, 20, 20, 3), np.uint8)
SAME = np.repeat(np.random.default_rng(2).integers(0, 256, (1, 20, 20, 3), np.uint8), 8, axis=0)


def learned(kernel=KERNEL, answers=ANSWERS, deviation=1.0):
    return Learned(kernel, np.zeros(5, np.float32), {}, answers, deviation)


def layer(text="{}"):
    return parse_spec(f"stack: [{text}]").stack[0]


def spoiled(array, value):
    array = array.copy()
    array.flat[3] = value
    return array


def test_healthy_layers_pass_loud_data_and_a_learner_that_shows_no_answers_too():
    for found in (learned(), learned(answers=None), learned(answers=ANSWERS * 1e3),
                  learned(answers=ANSWERS * 1e7, deviation=1e5),
                  learned(answers=ANSWERS * 1e7, deviation=None),
                  learned(answers=ANSWERS * [1, 0, 0, 0, 0])):  # fmt: skip
        assert fault(found) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (learned(spoiled(KERNEL, np.nan)), "kernel has values that are not finite. .*clipnorm"),
        (learned(answers=spoiled(ANSWERS, np.inf)), "its answers have values that are not finite"),
        (learned(KERNEL * 0), "all of its filters are zero"),
        (learned(answers=ANSWERS * 0 + 7), "none of its 5 filters responds.*smaller learning_rate"),
        (learned(answers=ANSWERS * 1e6), r"vary by 1\.?\d*e\+06 for an input that varies by 1: "),
    ],
)  # fmt: skip
def test_a_useless_layer_is_refused_with_the_reason_that_fits(found, words):
    with pytest.raises(CollapseError, match=f"layer conv1 is useless: .*{words}"):
        check_learned(found, layer(), None)


def test_on_collapse_warn_lets_a_finite_layer_pass_and_nothing_else():
    said, lenient = [], layer("{train: {on_collapse: warn}}")
    check_learned(learned(answers=ANSWERS * 0), lenient, said.append)
    assert len(said) == 1
    with pytest.raises(CollapseError):
        check_learned(learned(spoiled(KERNEL, np.nan)), lenient, said.append)


def test_a_threshold_above_all_answers_is_said_to_be_too_large():
    high = layer("{learner: {name: kmeans, threshold: 50}}")
    with pytest.raises(CollapseError, match="Try a smaller threshold"):
        check_learned(learned(answers=ANSWERS * 0), high, None)


def folder(tmp_path, images):
    (tmp_path / "pictures").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{index}.png")
    return f"folder:{tmp_path / 'pictures'}"


@pytest.mark.parametrize("name", LEARNERS)
def test_black_pictures_are_refused_by_every_learner_and_no_margin_is_blamed(tmp_path, name):
    text = f"data: '{folder(tmp_path, BLACK)}'\nstack: [{{learner: {name}, block: {{filters: 4}}}}]"
    with pytest.raises(RunError, match="are blank: .* is 0. Nothing can be") as stop:
        train(parse_spec(text), tmp_path / "run")
    assert "margin" not in str(stop.value)
    assert not (tmp_path / "run" / "layers").exists()


def test_pictures_that_are_all_the_same_are_refused_where_negatives_are_needed():
    said = []
    check_images(as_images(SAME), False, said.append)
    assert "8 images that were checked are the same" in said[0]
    with pytest.raises(RunError, match="8 images .* are the same. Negatives come from another"):
        check_images(as_images(SAME), True, None)
    other = SAME.copy()
    other[-1, 0, 0, 0] += 1
    check_images(as_images(other), True, None)


def test_an_input_is_judged_by_all_of_its_windows():
    still = np.full((3000, 4), 2.0)
    with pytest.raises(RunError, match="photos: the images are blank"):
        check_input(still, "photos")
    still[2999, 1] = 2.1
    check_input(still, "photos")
    below = [PlainLayer("conv1", {}, KERNEL, np.zeros(5))]
    with pytest.raises(RunError, match="maps of layer conv1 are the same everywhere"):
        check_input(still[:2000], "photos", below)
    with pytest.raises(RunError, match="maps of layer conv1 have values that are not finite"):
        check_input(spoiled(still, np.nan), "photos", below)


@pytest.mark.parametrize("name", ["contrastive", "kmeans"])
def test_a_layer_above_one_that_is_no_number_is_not_trained(tmp_path, photographs, name):
    spec = parse_spec(f"stack: [{{block: {{filters: 5, kernel_size: 3}}}}, {{learner: {name}}}]")
    below = PlainLayer(
        "conv1", spec.stack[0].block.arguments(), spoiled(KERNEL, np.nan), np.zeros(5)
    )
    with pytest.raises(RunError, match="kernel or bias of layer conv1 has values"):
        spec.stack[1].learner.learn(
            spec.stack[1], layer_geometry(spec.stack, 1), [below], photographs[:50], 0,
            tmp_path / "state.npz", Listener(),
        )  # fmt: skip


def test_a_training_that_leaves_all_bounds_before_its_first_row_writes_no_layer(tmp_path):
    text = """
    data: {source: photos, limit: 300}
    stack:
      - block: {filters: 4}
        train: {steps: 4, batch_size: 16, log_every: 50, jit: false,
                optimizer: {class_name: Adam, config: {learning_rate: 1000000}}}
    """
    with pytest.raises(CollapseError, match="learning_rate"):
        train(parse_spec(text), tmp_path / "run")
    assert not (tmp_path / "run" / "layers").exists()


def test_a_long_training_that_leaves_all_bounds_ends_after_a_few_looks(tmp_path):
    text = """
    data: {source: photos, limit: 300}
    stack:
      - block: {filters: 4}
        train: {steps: 1000000, batch_size: 16, log_every: 2, jit: false,
                optimizer: {class_name: Adam, config: {learning_rate: 1000000}}}
    """
    with pytest.raises(
        CollapseError, match=r"after 6 steps its filters' responses vary by .*Try a"
    ):
        train(parse_spec(text), tmp_path / "run")

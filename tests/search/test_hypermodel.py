"""`StackHyperModel` in a keras-tuner script: its models have the kernels of its trials."""

import keras_tuner
import numpy as np
import pytest
import yaml

import kclr
from kclr.errors import SpecError
from kclr.spec import parse_spec

pytestmark = pytest.mark.usefixtures("without_pictures")


def test_the_best_model_has_the_kernels_of_its_values(quick, tmp_path):
    hypermodel = kclr.search.StackHyperModel(quick, directory=tmp_path / "work")
    tuner = keras_tuner.RandomSearch(
        hypermodel, objective=hypermodel.objective, max_trials=2, directory=tmp_path, seed=3
    )
    tuner.search(verbose=0)
    values = tuner.get_best_hyperparameters()[0].values
    model = tuner.get_best_models()[0]
    sets = [f"{path}={value:.6g}" for path, value in values.items()]
    run = kclr.train(parse_spec(yaml.safe_dump(quick), sets), tmp_path / "run", bare=True)
    assert tuner.oracle.get_best_trials()[0].score == run.layers[-1].facts["probe_accuracy"]
    for layer in run.layers:
        kernel, bias = model.get_layer(layer.name).get_weights()
        np.testing.assert_array_equal(kernel, layer.kernel)
        np.testing.assert_array_equal(bias, layer.bias)
    assert not [*(tmp_path / "work/trials").glob("*")]


@pytest.mark.full
def test_keras_tuners_own_hyperband_goes_on_from_checkpoints(steps, tmp_path):
    steps["probe"], steps["search"]["objective"] = None, "loss"
    hypermodel = kclr.search.StackHyperModel(steps, directory=tmp_path / "work", max_epochs=2)
    tuner = keras_tuner.Hyperband(
        hypermodel, objective=hypermodel.objective, max_epochs=2, factor=2, directory=tmp_path
    )
    tuner.oracle.max_trials = 3
    tuner.search(verbose=0)
    done = {trial.hyperparameters.values["tuner/epochs"] for trial in tuner.oracle.trials.values()}
    assert done == {1, 2}
    assert all(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values())


def test_a_checked_spec_and_a_file_are_taken_too(quick, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(quick))
    one = kclr.search.StackHyperModel(tmp_path / "mine.yaml", ["seed=2"])
    other = kclr.search.StackHyperModel(kclr.load_spec(tmp_path / "mine.yaml", ["seed=2"]))
    assert one.spec == other.spec
    assert one.spec.seed == 2


def test_a_spec_without_a_search_is_refused():
    with pytest.raises(SpecError, match="section `search` is missing"):
        kclr.search.StackHyperModel({"stack": [{}]})

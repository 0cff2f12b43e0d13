"""The precision `auto`: what it stands for, and what a run keeps of it."""

import pytest
import tensorflow as tf

from kclr import keras_backend, version
from kclr.report.tables import cost_table
from kclr.spec import parse_spec
from kclr.spec.precision import precisions, settled

SPEC = """
stack:
  - {name: low, block: {filters: 64}}
  - {name: wide, block: {filters: 32}}
  - {name: narrow, block: {filters: 8}}
  - {name: asked, block: {filters: 8}, train: {precision: mixed_float16}}
  - {name: found, block: {filters: 8}, learner: kmeans}
"""


def test_auto_is_bfloat16_above_wide_layers_where_there_are_units():
    spec = parse_spec(SPEC)
    assert precisions(spec) == dict.fromkeys(["low", "wide", "narrow"], "auto") | {
        "asked": "mixed_float16"
    }
    without = {"low": "float32", "wide": "float32", "narrow": "float32", "asked": "mixed_float16"}
    assert precisions(settled(spec, units=False)) == without
    assert precisions(settled(spec, units=True)) == without | {"wide": "mixed_bfloat16"}


def test_a_run_keeps_the_precision_in_which_it_was_begun_but_not_against_the_spec():
    before = {"low": "mixed_bfloat16", "wide": "float32", "asked": "float32"}
    found = precisions(settled(parse_spec(SPEC), True, before))
    assert found == {
        "low": "mixed_bfloat16", "wide": "float32", "narrow": "float32", "asked": "mixed_float16"
    }  # fmt: skip


def test_a_spec_with_its_precisions_is_the_one_that_says_them():
    said = parse_spec(SPEC.replace("filters: 32}", "filters: 32}, train: {precision: float32}"))
    assert settled(parse_spec(SPEC), False).model_dump() == settled(said, True).model_dump()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, True),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False),
    ],
)
def test_units_that_tensorflow_may_not_use_do_not_count(
    monkeypatch, tmp_path, environment, expected
):
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2 amx_bf16 amx_tile\n")
    monkeypatch.setattr(
        version, "open", lambda path, **how: (tmp_path / "cpuinfo").open(**how), raising=False
    )
    for name in ("ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert version.has_amx() is expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True)])
def test_of_a_machine_with_a_gpu_the_gpu_decides(monkeypatch, capability, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": capability}
    )
    monkeypatch.setattr(keras_backend, "has_amx", lambda: not expected)
    assert keras_backend.bfloat16_units() is expected


@pytest.mark.parametrize("units", [True, False])
def test_check_says_the_precision_that_auto_comes_to_here(monkeypatch, units):
    from kclr.report import tables

    monkeypatch.setattr(tables, "has_amx", lambda: units)
    text = cost_table(parse_spec(SPEC), 1e11)
    row = next(line for line in text.splitlines() if line.strip().startswith("wide"))
    assert row.endswith("mixed_bfloat16" if units else "float32")
    assert f"this processor has {'' if units else 'no '}units for bfloat16" in text

"""Specs: YAML in, frozen typed objects out. Nothing here imports TensorFlow."""

from kclr.spec.findings import load_spec, parse_spec
from kclr.spec.geometry import layer_geometry
from kclr.spec.registry import Part, register
from kclr.spec.schema import Spec

__all__ = ["Part", "Spec", "layer_geometry", "load_spec", "parse_spec", "register"]

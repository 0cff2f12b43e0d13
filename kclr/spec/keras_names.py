"""Names of Keras classes that a spec may use, so that it can be checked without Keras.

`tests/spec/test_keras_names.py` compares these lists with the installed Keras. A class that another
package registers is written as Keras serialises it, `package>Name`, and is not checked here.
"""

from kclr.spec.keras_arguments import ARGUMENTS

# LossScaleOptimizer and MultiOptimizer wrap another one; Keras adds the first by itself.
OPTIMIZERS = tuple(ARGUMENTS["keras.optimizers"])
SCHEDULES = tuple(ARGUMENTS["keras.optimizers.schedules"])
# Those that change an image's size, so that only several of them together may keep it.
RESIZING = ("RandomCrop", "ZeroPadding2D")
# Those that keep an image's size and mix no two images.
AUGMENTATIONS = tuple(name for name in ARGUMENTS["keras.layers"] if name not in RESIZING)

# Augmentations of Keras that cannot be used, and why.
REFUSED = {
    "Equalization": "equalizes all images of a batch together. Use AutoContrast.",
}
# Those that only images of three colours have.
COLOURED = ("RandomColorDegeneration", "RandomHue", "RandomSaturation")
COLOURED_ARGUMENTS = {"RandomColorJitter": ("saturation_factor", "hue_factor")}
# Those that XLA does not compile.
NOT_COMPILED = (
    "AugMix", "RandAugment", "RandomElasticTransform", "RandomPerspective", "RandomRotation",
    "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip

# fmt: off
# Those that keep the shape and need no argument: not `glu`, nor `threshold`.
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish",
    "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6",
    "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus",
    "sparse_sigmoid", "sparsemax", "squareplus", "swish", "tanh", "tanh_shrink",
)
# fmt: on

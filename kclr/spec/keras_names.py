"""Names of Keras' own classes that a spec may use, so that a spec is checked without Keras.

`tests/spec/test_keras_names.py` holds these lists against the installed Keras. A class registered
by somebody else is written as Keras serialises it, `package>Name`, and is not checked here.
"""

# fmt: off
# LossScaleOptimizer and MultiOptimizer wrap another one; Keras adds the first by itself.
OPTIMIZERS = (
    "Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "Ftrl", "Lamb", "Lion", "Muon",
    "Nadam", "RMSprop", "ScheduleFreeAdamW", "SGD",
)

SCHEDULES = (
    "CosineDecay", "CosineDecayRestarts", "ExponentialDecay", "InverseTimeDecay",
    "PiecewiseConstantDecay", "PolynomialDecay",
)

# Those that keep the shape and need no argument: not `glu`, nor `threshold`.
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish",
    "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6",
    "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus",
    "sparse_sigmoid", "sparsemax", "squareplus", "swish", "tanh", "tanh_shrink",
)

# Those that keep an image's size and mix no two images.
AUGMENTATIONS = (
    "AugMix", "AutoContrast", "Equalization", "GaussianNoise", "RandAugment", "RandomBrightness",
    "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform",
    "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue",
    "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation",
    "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom",
    "Solarization",
)
# fmt: on

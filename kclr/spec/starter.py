"""The commented specs that `kclr init` writes."""

_IMAGES = """\
# A kclr spec: images without labels, and the layers to learn from them.
# Check it with `kclr check FILE`, train it with `kclr train FILE`.

# Where the images come from: photos (a few photographs that come with kclr's dependencies),
# tfds:NAME (a data set of tensorflow-datasets), folder:PATH (your own pictures), or a mapping with
# the key `source` and options, such as {source: "folder:pictures", limit: 10000}.
data: photos

# The same seed gives the same kernels.
seed: 0

stack:
"""

_ONE = """\
  - name: conv1
    block:
      filters: 64         # how many filters to learn
      kernel_size: 6      # their height and width
      pool_size: 2        # the max-pool's window; 1 for none
      activation: relu    # any Keras activation
      whitening: zca      # zca, standardize or none; folded into the kernel afterwards
    patches:
      crop_size: 8        # a random square of an image ...
      patch_size: 7       # ... whose overlapping patches belong together
      stride: 1           # distance of neighbouring patches
    objective:
      name: triplet
      distance: euclidean # or cosine
      margin: 2.0
      mining: semi-hard   # random, semi-hard, hardest or all
    train:
      steps: 1000         # or epochs
      batch_size: 512     # crops
      optimizer:          # any Keras optimizer; the rate may be a schedule
        class_name: Adam
        config:
          learning_rate: 0.001

  # More layers, each trained on the frozen output of those below: `kclr init --layers 3` has the
  # best recipe. Sizes are in cells of the map below; `kclr check` shows them in pixels.
  # - name: conv2
  #   block: {filters: 128, kernel_size: 3}
  #   train: {steps: 500, batch_size: 256}
"""

_BELOW = """\
  # Filters by k-means on whitened windows of the images: seconds, no gradient steps.
  - name: conv1
    block: {filters: 128, kernel_size: 5, padding: same}
    learner: {name: kmeans, threshold: 0.5}

  # Above them filters by contrast, on the frozen output of those below. What is added to the
  # convolution during training is folded into it (batch_norm) or discarded (head).
  - name: conv2
    block: &block {filters: 256, kernel_size: 3, padding: same, batch_norm: true}
    patches:              # sizes in cells of the map below; `kclr check` shows pixels
      patch_size: 8       # 20 px of the image ...
      max_shift: 3        # ... anchor and positive up to 6 px apart
      augment: &augment   # any Keras augmentations
        - {class_name: RandomFlip, config: {mode: horizontal}}
        - class_name: RandomColorJitter
          config:
            value_range: [0, 1]
            brightness_factor: 0.4
            contrast_factor: 0.4
            saturation_factor: 0.4
            hue_factor: 0.1
    objective: &objective {name: ntxent, temperature: 0.2}
    embedding: &embedding {pool: mean, standardize: true, head: [512, 128]}
    train: &train
      steps: 500          # or epochs
      batch_size: 256     # crops with two patches each
      # precision: mixed_bfloat16  # faster on GPUs and on CPUs with AMX
      optimizer:          # any Keras optimizer and schedule
        class_name: AdamW
        config:
          learning_rate:
            class_name: CosineDecay
            config:
              initial_learning_rate: 0.0
              warmup_target: 0.002
              warmup_steps: 50
              decay_steps: 450
"""

_THIRD = """
  - name: conv3
    block: {<<: *block, filters: 512}
    patches: {patch_size: 4, max_shift: 2, augment: *augment}  # 24 px, up to 8 px apart
    objective: *objective
    embedding: *embedding
    train: *train
"""

_FEATURES = """
# What the SavedModel's `embed` returns: the features of all layers, each pooled on a grid of so
# many cells per side and raised to a power (0.5: square roots).
export: {{all_layers: true, grid_size: {grids}, power: {powers}}}
"""


def starter(layers=1) -> str:
    """A spec with comments, as text.

    Args:
        layers: int. 1: a single layer with triplets, its defaults written out; 2 or 3: k-means
            below and contrast above, as in `configs/depth.yaml`, with a third of its filters.
    """
    if layers == 1:
        return _IMAGES + _ONE
    features = _FEATURES.format(grids=[3, 2, 2][:layers], powers=[0.5, 0.5, 1][:layers])
    return _IMAGES + _BELOW + _THIRD * (layers > 2) + features

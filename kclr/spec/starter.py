"""The commented spec that `kclr init` writes."""

STARTER = """\
# A spec of kclr: images without labels, and the layers to learn from them.
# Check it with `kclr check FILE`, train it with `kclr train FILE`.

# Where the images come from: photos (a few photographs that come with kclr's dependencies),
# tfds:NAME (a data set of tensorflow-datasets), folder:PATH (your own pictures), or a mapping with
# the key `source` and options, such as {source: "folder:pictures", limit: 10000}.
data: photos

# The same seed gives the same kernels.
seed: 0

stack:
  - name: conv1
    block:
      filters: 64         # how many filters to learn
      kernel_size: 6      # their height and width
      pool_size: 2        # the max-pool's window; 1 for none
      activation: relu    # any activation of Keras
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
      optimizer:          # any optimizer of Keras; a schedule in place of a number is welcome
        class_name: Adam
        config:
          learning_rate: 0.001

  # A second layer, trained on the frozen output of the first. Its sizes are in cells of the first
  # layer's map; `kclr check` tells what they are in pixels.
  # - name: conv2
  #   block: {filters: 128, kernel_size: 3}
  #   train: {steps: 500, batch_size: 256}
"""

"""kclr: layer-wise contrastive representation learning for Keras.

The public names are listed in the stub __init__.pyi and are imported when first used, so that
`import kclr` is quick.
"""

import lazy_loader

from kclr.keras_backend import register_classes, require_tensorflow

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_ON_TENSORFLOW = {
    "ContrastiveConvBlock", "TripletModel", "callbacks", "losses", "search", "train", "transfer",
}  # fmt: skip


def __getattr__(name):
    if name in _ON_TENSORFLOW:
        require_tensorflow(f"kclr.{name}")
    return _lazy(name)


register_classes()

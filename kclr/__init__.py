"""kclr: layer-wise contrastive representation learning for Keras.

The public names stand in the stub beside this file, __init__.pyi, and are imported when they are
first used, so that `import kclr` is quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

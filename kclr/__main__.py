"""`python -m kclr`, the same as `kclr`."""

import sys

from kclr.cli import main

sys.exit(main())

import sys
from pathlib import Path

# The harness is a few modules beside its tests; ./tools/faults finds them the same way.
sys.path.insert(0, str(Path(__file__).parent))

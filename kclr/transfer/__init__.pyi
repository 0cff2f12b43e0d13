from .starting import InitializeReport as InitializeReport
from .starting import initialize as initialize

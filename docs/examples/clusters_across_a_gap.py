"""
Clusters across a gap between cameras
=====================================

Placeholder.
"""

import mabm

print(mabm.__version__)

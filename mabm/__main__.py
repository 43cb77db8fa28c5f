"""``python -m mabm`` is ``mabm``."""

import sys

from mabm.cli import main

if __name__ == "__main__":
    sys.exit(main())

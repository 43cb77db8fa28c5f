"""What the fixture ``run`` is: a command of ``mabm``, run in this process."""

from collections.abc import Callable
from typing import TypeAlias

# Words of the command line; status, standard output, standard error.
Run: TypeAlias = Callable[..., tuple[int, str, str]]

"""The same results on several processes: each has its own rows and gets the results of its rows.

The processes are those of a group of ``torch.distributed``, for instance started by ``torchrun``.
"""

from mabm.distributed.errors import ProcessError
from mabm.distributed.pseudo_labels import pseudo_labels

__all__ = ["ProcessError", "pseudo_labels"]

"""
Labels from several processes
=============================

Pseudo-labels of one file, shared by the processes that ``torchrun`` starts. Each reads its own rows
and saves their labels; together they are the labels of one process. :doc:`/guide/several_processes`
has the command.
"""

import os

import numpy as np
import torch
import torch.distributed as dist

import mabm.distributed

rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
local = os.environ.get("LOCAL_RANK", "0")
device = torch.device(f"cuda:{local}" if torch.cuda.is_available() else "cpu")
if size > 1:
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

features = np.load("features.npy", mmap_mode="r")  # nothing is read yet
rows = slice(rank * len(features) // size, (rank + 1) * len(features) // size)
modality = np.load("modality.npy")[rows]
own = torch.tensor(features[rows], device=device)
found = mabm.distributed.pseudo_labels(own, modality, k1=20, k2=4)
np.save(f"labels_{rank}.npy", found.labels.cpu())
if rank == 0:
    print(found.summary())
if size > 1:
    dist.destroy_process_group()

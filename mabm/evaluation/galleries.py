"""Randomly drawn galleries: some images per identity and camera."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mabm._core.arguments import check_integer, shown
from mabm._core.arrays import ArrayT, like
from mabm._core.columns import Column, check_categories, check_column


def draw_gallery(
    identity: ArrayT, camera: Column, *, cameras: Sequence[int], trial: int, num_images: int = 1
) -> ArrayT:
    """Draws ``num_images`` images per identity and camera; returns their indices.

    With one image, the default, it draws as the released test code does: the same images as
    ``random.seed(trial)`` followed by one ``random.choice`` per identity (ascending) and camera (in
    the given order) among the images of that identity and camera. If there are none, nothing is
    drawn. Python's global generator is not used.

    Several images are drawn without replacement, by one ``random.sample`` instead of each
    ``random.choice``; if there are fewer, all of them in random order. There is no standard way to
    draw several images: public code draws them from NumPy's generator, which it does not seed with
    the trial, or uses the permutations that come with SYSU-MM01 for MATLAB.

    Args:
        identity: (N,) integers or words. Words are drawn in sorted order.
        camera: (N,) integers. Images of one identity in one camera must be in the order of their
            file names, because a draw is a position in that order.
        cameras: Cameras to draw from; images of other cameras are not drawn.
        trial: Seed of the draw, at least 0; the published trials are 0 to 9.
        num_images: Number of images to draw per identity and camera, at least 1.

    Returns:
        (G,) int64 indices in the order of the draws: a tensor if ``identity`` is one, otherwise an
        array.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Shapes do not fit, the trial is negative, there is no image to draw, or a camera
            is given twice.

    Example:
        >>> import torch, mabm
        >>> identity = torch.tensor([7, 7, 7, 7, 9, 9])
        >>> camera = torch.tensor([1, 1, 2, 2, 2, 3])
        >>> mabm.draw_gallery(identity, camera, cameras=(1, 2), trial=0)
        tensor([1, 3, 4])
        >>> mabm.draw_gallery(identity, camera, cameras=(1,), trial=0, num_images=2)
        tensor([1, 0])
    """
    people = check_categories(identity, None, "identity", "one per row").columns[0]
    places = check_column(camera, len(people), "camera", "one per row of identity").tolist()
    if (
        not isinstance(cameras, Sequence | np.ndarray)
        or isinstance(cameras, str)
        or (isinstance(cameras, np.ndarray) and not cameras.ndim)
    ):
        raise TypeError(
            f"cameras must be a sequence of integers, got {type(cameras).__name__}: "
            f"{shown(cameras)}"
        )
    order = {
        check_integer("cameras", number, at_least=0): place for place, number in enumerate(cameras)
    }
    if len(order) != len(cameras):
        raise ValueError(f"cameras must not repeat, got {tuple(cameras)}")
    seed = check_integer("trial", trial, at_least=0, at_most=None)
    count = check_integer("num_images", num_images, at_least=1, at_most=None)
    cells: dict[tuple[int, int], list[int]] = {}
    for row, (person, number) in enumerate(zip(people.tolist(), places, strict=True)):
        if number in order:
            cells.setdefault((person, order[number]), []).append(row)
    generator = random.Random(seed)
    # For one image, this equals random.choice.
    rows = [
        row
        for cell in sorted(cells)
        for row in generator.sample(cells[cell], min(count, len(cells[cell])))
    ]
    drawn = torch.tensor(rows, dtype=torch.int64, device=people.device)
    return like(drawn, identity if isinstance(identity, Tensor) else drawn.numpy())

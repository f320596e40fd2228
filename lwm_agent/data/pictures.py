"""Pictures of any size as the square ones that models see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def area_resize(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture ``(h, w, 3)`` as ``(size, size, 3)``, each pixel the mean of the area that it covers."""
    if frame.shape == (size, size, 3):
        return frame.copy()
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))


def central_square(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest square in the middle of a picture ``(h, w, 3)``."""
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    return frame[top : top + side, left : left + side]

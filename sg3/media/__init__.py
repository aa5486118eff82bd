"""Images and videos: bytes, PNG, grids, contact sheets, MP4, display in notebooks."""

from sg3.media.display import ImageStep, ImageTensor
from sg3.media.images import contact_sheet, image_grid, save_png, to_uint8
from sg3.media.mp4 import VideoWriter

__all__ = [
    "ImageStep",
    "ImageTensor",
    "VideoWriter",
    "contact_sheet",
    "image_grid",
    "save_png",
    "to_uint8",
]

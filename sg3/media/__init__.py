"""Pictures and videos: bytes, PNG, grids, contact sheets, MP4."""

from sg3.media.images import contact_sheet, image_grid, save_png, to_uint8
from sg3.media.video import VideoWriter

__all__ = ["VideoWriter", "contact_sheet", "image_grid", "save_png", "to_uint8"]

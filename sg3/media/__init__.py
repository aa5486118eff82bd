"""Images and videos: conversion to uint8, PNG, grids, contact sheets, MP4, notebook display."""

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

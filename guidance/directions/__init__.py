"""Directions in which latents are edited: from texts, weights, latents and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidance.lazy import lazy_names

if TYPE_CHECKING:
    from guidance.directions.base import Direction, EditStep, apply_directions, sweep
    from guidance.directions.cache import find_relevance, relevance_with_cache
    from guidance.directions.centres import centres_of, mix_styles, truncate
    from guidance.directions.config import RelevanceConfig
    from guidance.directions.files import read_direction, write_direction
    from guidance.directions.linear import (
        described_direction,
        labelled_direction,
        pca_direction,
        sefa_direction,
    )
    from guidance.directions.relevance import Relevance, relevance_steps
    from guidance.directions.text import text_difference, text_direction
    from guidance.latent_files import read_latent, write_latent
    from guidance.render import EditedLatent

__all__ = [
    "Direction",
    "EditStep",
    "EditedLatent",
    "Relevance",
    "RelevanceConfig",
    "apply_directions",
    "centres_of",
    "described_direction",
    "find_relevance",
    "labelled_direction",
    "mix_styles",
    "pca_direction",
    "read_direction",
    "read_latent",
    "relevance_steps",
    "relevance_with_cache",
    "sefa_direction",
    "sweep",
    "text_difference",
    "text_direction",
    "truncate",
    "write_direction",
    "write_latent",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "guidance.directions.base": ["Direction", "EditStep", "apply_directions", "sweep"],
        "guidance.directions.cache": ["find_relevance", "relevance_with_cache"],
        "guidance.directions.centres": ["centres_of", "mix_styles", "truncate"],
        "guidance.directions.config": ["RelevanceConfig"],
        "guidance.directions.files": ["read_direction", "write_direction"],
        "guidance.directions.linear": [
            "described_direction",
            "labelled_direction",
            "pca_direction",
            "sefa_direction",
        ],
        "guidance.directions.relevance": ["Relevance", "relevance_steps"],
        "guidance.directions.text": ["text_difference", "text_direction"],
        "guidance.latent_files": ["read_latent", "write_latent"],
        "guidance.render": ["EditedLatent"],
    },
)

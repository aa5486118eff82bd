"""Settings of `sg3 push`. Importing this module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from sg3.settings import check_settings, documented, setting


@documented
@dataclass(frozen=True)
class PushConfig:
    """What is published, and how."""

    licence: str | None = setting(
        None,
        "Licence of the weights: a name of the hub such as cc-by-4.0, or words.",
        unset="what the network's file says",
    )
    data: str | None = setting(
        None, "What the network was trained on, for the card.", unset="what the file says"
    )
    private: bool = setting(False, "A new repository can only be seen by you.")
    message: str = setting("Upload with sg3 push", "Message of the commit.")
    revision: str | None = setting(None, "Branch that receives the commit.", unset="main")

    def __post_init__(self) -> None:
        check_settings(self)

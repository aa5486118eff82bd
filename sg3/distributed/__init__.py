"""Multi-process training and evaluation: ranks, collectives, rendezvous."""

from sg3.distributed.team import SharedError, Team, restarted_by_torchrun

__all__ = ["SharedError", "Team", "restarted_by_torchrun"]

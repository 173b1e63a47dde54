"""Trajectories shared among processes, which exchange clean predictions only."""

from couple.parallel.ranks import Ranks

__all__ = ["Ranks"]

"""Where the weights are while trajectories run: one copy, one transfer for all, and a budget that is kept."""

from couple.memory.placement import Placement, Report, placed, planned

__all__ = ["Placement", "Report", "placed", "planned"]

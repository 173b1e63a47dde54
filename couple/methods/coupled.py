"""The coupling itself: states of their own, pulled along the gradient of the edges' energies."""

from __future__ import annotations

from collections.abc import Sequence

from couple import coupling, weights
from couple.engine.loop import Meeting
from couple.graph import Edge
from couple.trajectory import Trajectory


class Coupled:
    """Coupled diffusion sampling (arXiv 2510.14981, Eq. 8-9), on any graph of trajectories.

    Everyone's prediction is made before any state moves (a Jacobi update); then each takes its stock step and is
    pulled by `-sigma' grad_x0 sum_e weight_e E_e`, where sigma' is the noise level landed on.
    """

    evaluations = 1

    def begin(self, trajectories: Sequence[Trajectory], edges: Sequence[Edge]) -> None:
        """Any graph will do, and nothing is remembered."""

    def excess(self, edges: Sequence[Edge]) -> str:
        """Say that the coupling may be too strong, and how to weaken it."""
        given = ", ".join(sorted({f"weight={edge.weight!r}" for edge in edges}))
        return f"the coupling is too strong ({given}): {_weaker(edges)}"

    def remember(self) -> None:
        """Return nothing: every meeting is made of what arrives."""

    def recall(self, memory: None) -> None:
        """Take nothing back."""

    def meet(self, meeting: Meeting) -> None:
        """Take the steps that are due, and pull."""
        moving = [a.trajectory for a in meeting.due if a.trajectory in meeting.x0 and a.levels.completes]
        pulls = coupling.pulls(meeting.x0, meeting.edges, meeting.levels, moving) if moving else {}
        for arrival in meeting.due:
            arrival.step(pulls.get(arrival.trajectory))


def _weaker(edges: Sequence[Edge]) -> str:
    """What would make these edges of one trajectory pull less."""
    if len(edges) > 1:
        return f"lower the weight, or divide it by the {len(edges)} edges, e.g. couple.complete(..., normalize=True)"
    if any(weights.made_with(edge.weight, weights.relax) for edge in edges):
        return "lower kappa, e.g. weight=couple.weights.relax(0.3)"
    return "lower the weight, or use a law that never steps past agreement, weight=couple.weights.relax(1.0)"

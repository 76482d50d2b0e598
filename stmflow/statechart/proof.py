"""What the model checker is asked of every chart. Apart, so that a service need not load it."""

from __future__ import annotations

from stmflow.check.model import Property, View, always, sometimes
from stmflow.statechart.chart import Chart
from stmflow.workflow import Job

__all__ = ["reached"]


def reached(chart: Chart, job: Job) -> list[Property]:
    """That the job is in a legal configuration always, and in each of them sometimes."""
    legal = {leaves: "+".join(leaves) for leaves in chart.configurations()}

    def is_legal(view: View) -> bool:
        state = view.state(job)
        return state is None or state.active in legal

    def comes_to(leaves: tuple[str, ...]) -> Property:
        def here(view: View) -> bool:
            return getattr(view.state(job), "active", None) == leaves

        return sometimes(f"the chart is in {legal[leaves]}", here)

    return [always("one leaf is active in each region", is_legal), *map(comes_to, legal)]

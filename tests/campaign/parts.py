"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import crashes, graph, histories, interleavings, rollouts, seeds
from tests.campaign.part import Part
from tests.crash import postgres_cuts, postgres_kills, postgres_settled, postgres_workers

PARTS: tuple[Part, ...] = (
    *crashes.PARTS,
    *graph.PARTS,
    *histories.PARTS,
    *interleavings.PARTS,
    *postgres_cuts.PARTS,
    *postgres_kills.PARTS,
    *postgres_settled.PARTS,
    *postgres_workers.PARTS,
    rollouts.PART,
    *seeds.PARTS,
)

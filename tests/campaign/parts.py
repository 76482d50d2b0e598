"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import crashes, graph, histories, interleavings, seeds
from tests.campaign.part import Part

PARTS: tuple[Part, ...] = (
    *crashes.PARTS,
    *graph.PARTS,
    *histories.PARTS,
    *interleavings.PARTS,
    *seeds.PARTS,
)

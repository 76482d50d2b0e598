"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import graph, histories, seeds
from tests.campaign.part import Part

PARTS: tuple[Part, ...] = (*graph.PARTS, *histories.PARTS, *seeds.PARTS)

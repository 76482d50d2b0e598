"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import crashes, interleavings, seeds
from tests.campaign.part import Part

PARTS: tuple[Part, ...] = (
    *crashes.PARTS,
    *interleavings.PARTS,
    *seeds.PARTS,
)

"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import crashes, seeds
from tests.campaign.part import Part

PARTS: tuple[Part, ...] = (
    *crashes.PARTS,
    *seeds.PARTS,
)

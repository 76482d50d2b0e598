"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import seeds
from tests.campaign.part import Part
from tests.crash import power_loss

PARTS: tuple[Part, ...] = (
    *power_loss.PARTS,
    *seeds.PARTS,
)

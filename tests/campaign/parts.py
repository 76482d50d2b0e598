"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import seeds
from tests.campaign.part import Part
from tests.crash import flips, io_errors, kills, power_loss

PARTS: tuple[Part, ...] = (
    *flips.PARTS,
    *io_errors.PARTS,
    *kills.PARTS,
    *power_loss.PARTS,
    *seeds.PARTS,
)

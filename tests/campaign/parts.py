"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import seeds
from tests.campaign.part import Part
from tests.crash import postgres_kills

PARTS: tuple[Part, ...] = (
    *postgres_kills.PARTS,
    *seeds.PARTS,
)

"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import histories, seeds
from tests.campaign.part import Part

PARTS: tuple[Part, ...] = (*histories.PARTS, *seeds.PARTS)

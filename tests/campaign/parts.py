"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import rollouts, seeds
from tests.campaign.part import Part

PARTS: tuple[Part, ...] = (rollouts.PART, *seeds.PARTS)

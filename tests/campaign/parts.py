"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import seeds, uploads
from tests.campaign.part import Part

PARTS: tuple[Part, ...] = (*seeds.PARTS, uploads.PART)

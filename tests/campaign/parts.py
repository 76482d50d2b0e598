"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import command_line, seeds
from tests.campaign.part import Part

PARTS: tuple[Part, ...] = (*command_line.PARTS, *seeds.PARTS)

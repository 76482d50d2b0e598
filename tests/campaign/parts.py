"""Every part of the campaign."""

from __future__ import annotations

from tests.campaign import (
    command_line,
    crashes,
    graph,
    histories,
    interleavings,
    rollouts,
    seeds,
    uploads,
)
from tests.campaign.part import Part
from tests.crash import (
    flips,
    io_errors,
    kills,
    postgres_cuts,
    postgres_kills,
    postgres_settled,
    postgres_workers,
    power_loss,
)

PARTS: tuple[Part, ...] = (
    *command_line.PARTS,
    *crashes.PARTS,
    *flips.PARTS,
    *graph.PARTS,
    *histories.PARTS,
    *interleavings.PARTS,
    *io_errors.PARTS,
    *kills.PARTS,
    *postgres_cuts.PARTS,
    *postgres_kills.PARTS,
    *postgres_settled.PARTS,
    *postgres_workers.PARTS,
    *power_loss.PARTS,
    rollouts.PART,
    *seeds.PARTS,
    uploads.PART,
)

"""The tables of docs/attacks.md are made of the attacks: `python -m tests.attack.table`."""

from __future__ import annotations

from itertools import groupby

from tests.attack import bytes0, tokens0, tokens1
from tests.attack.attack import ATTACKS, Attack
from tests.project import ROOT

FAMILIES = {"ucanto": "ucanto (UCAN 0.9.1)", "ucan1": "UCAN 1.0"}
PAGE = ROOT / "docs/attacks.md"
MARK = "<!-- made by tests.attack.table -->\n"


def page() -> str:
    """The page: its words as they are, its tables anew."""
    assert bytes0.BODY
    assert tokens0.ASK
    assert tokens1.ASK
    parts = [PAGE.read_text().partition(MARK)[0], MARK]
    for family, title in FAMILIES.items():
        listed = [attack for attack in ATTACKS if attack.family == family]
        kinds = list(dict.fromkeys(attack.kind for attack in listed))
        listed.sort(key=lambda attack: (kinds.index(attack.kind), attack.refused))
        parts.append(
            f"\n## {title}: {len(listed)} attacks\n\n| attack | refused as |\n| --- | --- |\n"
        )
        for kind, attacks in groupby(listed, key=lambda attack: attack.kind):
            parts += [_line(kind, attack) for attack in attacks]
    return "".join(parts)


def _line(kind: str, attack: Attack) -> str:
    return f"| {kind}: {attack.name.replace('_', ' ')} | `{attack.refused}` |\n"


if __name__ == "__main__":
    PAGE.write_text(page())

"""What users import in their tests: `Trace` plays a workflow with no IO and virtual time."""

from stmflow.testing.trace import Past, Timer, Trace

__all__ = ["Past", "Timer", "Trace"]

"""What users import in their tests: `Trace` plays a workflow with no IO and virtual time; the
checkers say whether what a store holds, and what clients saw of it, can have happened."""

from stmflow.testing.graph import Anomaly
from stmflow.testing.observed import check_history, check_store
from stmflow.testing.recorder import Recorder
from stmflow.testing.trace import Past, Timer, Trace

__all__ = ["Anomaly", "Past", "Recorder", "Timer", "Trace", "check_history", "check_store"]

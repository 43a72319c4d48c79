"""A model from its data contract to its registered, served and monitored versions."""

import os

# Before any OpenMP library is loaded: threads that wait for a busy core must sleep, not spin (4 × faster there).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

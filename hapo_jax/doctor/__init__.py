"""The run doctor: silent failures of a run, found in what it writes.

`hapo-doctor RUN` reads a folder; `hapo-train --doctor` looks every few steps. A check
is a function of `evidence.Evidence`, see `checks.CHECKS`.
"""

"""What would happen if a model were loaded: runtime, memory, drafter, and what to know before. No printing."""

from evodraft.inspection.build import inspect_target, try_out
from evodraft.inspection.report import Report

__all__ = ["Report", "inspect_target", "try_out"]

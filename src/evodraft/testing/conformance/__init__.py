"""What every plug-in must do, as checks that anyone can run on a part of their own.

Each check takes a function that makes a fresh part, and raises AssertionError with a sentence that says what went
wrong. Does not know how good a part is: a drafter that always guesses wrong conforms.
"""

from evodraft.testing.conformance.controller import check_controller
from evodraft.testing.conformance.decoder import check_decoder
from evodraft.testing.conformance.drafter import check_drafter
from evodraft.testing.conformance.learner import check_learner
from evodraft.testing.conformance.verifier import check_verifier

__all__ = ["check_controller", "check_decoder", "check_drafter", "check_learner", "check_verifier"]

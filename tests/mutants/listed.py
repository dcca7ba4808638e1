"""All mutants, in the order of the table."""

from tests.mutants import agreement, durability, state, views
from tests.mutants.mutant import MUTANTS

__all__ = ["MUTANTS", "agreement", "durability", "state", "views"]

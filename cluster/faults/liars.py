"""The kinds of liars that a manifest can name, and the server that lies as they say.

Each kind's docstring says what it attacks. A server may lie in several ways at once.
"""

from cluster.faults import (
    liars_about_state,
    liars_about_views,
    liars_about_votes,
    liars_that_lead,
    liars_that_pester,
    liars_that_sign,
)
from cluster.faults.lying import KINDS, Kind, Liar, LyingServer, Means, Parameters, check, parameters_of

__all__ = ["KINDS", "MODULES", "Kind", "Liar", "LyingServer", "Means", "Parameters", "check", "parameters_of"]

MODULES = (
    liars_that_lead,
    liars_about_votes,
    liars_about_views,
    liars_about_state,
    liars_that_sign,
    liars_that_pester,
)
"""Where the kinds are, in the order of a batch's life."""

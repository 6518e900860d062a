"""Libraries that nobody lists: reactions, their reagents, and products made when they are looked at."""

from sggp.molecules.reactions.filters import ProductFilter
from sggp.molecules.reactions.library import ReactionLibrary
from sggp.molecules.reactions.reaction import Reaction, Reagents, Refused, read_reactions

__all__ = [
    "ProductFilter",
    "Reaction",
    "ReactionLibrary",
    "Reagents",
    "Refused",
    "read_reactions",
]

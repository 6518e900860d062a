"""A small library of products: 20 x 20 x 20 quinazolinones of everyday reagents."""

from __future__ import annotations

from sggp.molecules import Reaction

QUINAZOLINONE = "N[c:4][c:3]C(O)=O.[#6:1][NH2].[#6:2]C(=O)[OH]>>[C:2]c1n[c:4][c:3]c(=O)n1[C:1]"
AMIDE = "[C:1](=[O:2])[OH].[NX3;H2;!$(N-C=O):3][#6:4]>>[C:1](=[O:2])[N:3][#6:4]"
GROUPS = [
    "F",
    "Cl",
    "Br",
    "I",
    "C",
    "CC",
    "C(C)C",
    "OC",
    "OCC",
    "N(C)C",
    "C#N",
    "C(F)(F)F",
    "SC",
    "S(C)(=O)=O",
    "C(C)=O",
    "O",
    "C=C",
    "C#C",
    "CO",
    "CCC",
]
AMINES = [
    "C",
    "CC",
    "CCC",
    "CCCC",
    "C(C)C",
    "CC(C)C",
    "C1CC1",
    "C1CCC1",
    "C1CCCC1",
    "C1CCCCC1",
    "CCO",
    "CCOC",
    "CCF",
    "CC(F)F",
    "CC#N",
    "CCSC",
    "CCN(C)C",
    "C1COC1",
    "Cc1ccccc1",
    "Cc1ccncc1",
]
ACIDS = [
    "C",
    "CC",
    "CCC",
    "C(C)C",
    "CC(C)C",
    "C1CC1",
    "C1CCC1",
    "C1CCCC1",
    "CO",
    "COC",
    "CF",
    "CCl",
    "CC#N",
    "CSC",
    "CN(C)C",
    "C1COC1",
    "Cc1ccccc1",
    "Cc1ccncc1",
    "Cc1ccsc1",
    "Cc1cccnc1",
]


def quinazolinones(size: int = 20) -> Reaction:
    """The reaction with `size` reagents for each of its three components."""
    benzoic = [f"Nc1c({group})cccc1C(=O)O" for group in GROUPS[:size]]
    amines = [(f"N{group}", f"amine-{i}") for i, group in enumerate(AMINES)]
    acids = [f"OC(=O){group}" for group in ACIDS[:size]]
    return Reaction(QUINAZOLINONE, [benzoic, amines[:size], acids], "quinazolinone")

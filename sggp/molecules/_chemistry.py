"""RDKit for what is no fingerprint: structures of SD files, and the parents of salts."""

from __future__ import annotations

from functools import cache
from typing import Any

from sggp.errors import missing_extra
from sggp.molecules._rdkit import parse

try:
    from rdkit import Chem, rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize
except ImportError as error:
    raise missing_extra("Reading structures needs RDKit", "molecules", error) from error

_TAUTOMERS = 200
_SULFOXIDE: Any = Chem.MolFromSmarts("[SX3+;!$(S=*)]-[OX1-]")

COMPANIONS = {
    # counter-ions, as neutral molecules
    "hydrochloride": "Cl", "hydrobromide": "Br", "hydroiodide": "I", "hydrofluoride": "F", "sodium": "[Na]",
    "potassium": "[K]", "lithium": "[Li]", "calcium": "[Ca]", "magnesium": "[Mg]", "zinc": "[Zn]", "ammonium": "N",
    "caesium": "[Cs]", "barium": "[Ba]", "aluminium": "[Al]", "silver": "[Ag]",
    "sulfate": "O=S(=O)(O)O", "phosphate": "O=P(O)(O)O", "nitrate": "O=[N+]([O-])O", "carbonate": "O=C(O)O",
    "perchlorate": "[O-][Cl+3]([O-])([O-])O", "tetrafluoroborate": "F[B-](F)(F)F",
    "hexafluorophosphate": "F[P-](F)(F)(F)(F)F", "acetate": "CC(=O)O", "trifluoroacetate": "O=C(O)C(F)(F)F",
    "formate": "O=CO", "oxalate": "O=C(O)C(=O)O", "tartrate": "O=C(O)C(O)C(O)C(=O)O",
    "citrate": "O=C(O)CC(O)(CC(=O)O)C(=O)O", "fumarate or maleate": "O=C(O)C=CC(=O)O", "malonate": "O=C(O)CC(=O)O",
    "succinate": "O=C(O)CCC(=O)O", "malate": "O=C(O)CC(O)C(=O)O", "lactate": "CC(O)C(=O)O", "mesylate": "CS(=O)(=O)O",
    "esylate": "CCS(=O)(=O)O", "tosylate": "Cc1ccc(S(=O)(=O)O)cc1", "besylate": "O=S(=O)(O)c1ccccc1",
    "triflate": "O=S(=O)(O)C(F)(F)F", "benzoate": "O=C(O)c1ccccc1", "mandelate": "O=C(O)C(O)c1ccccc1",
    "salicylate": "O=C(O)c1ccccc1O", "picrate": "O=[N+]([O-])c1cc([N+](=O)[O-])c(O)c([N+](=O)[O-])c1",
    "meglumine": "CNCC(O)C(O)C(O)C(O)CO", "tromethamine": "NC(CO)(CO)CO", "triethylamine": "CCN(CC)CC",
    "diethylamine": "CCNCC", "diisopropylethylamine": "CCN(C(C)C)C(C)C",
    # solvents
    "hydrate": "O", "methanol": "CO", "ethanol": "CCO", "2-propanol": "CC(C)O", "acetone": "CC(C)=O",
    "acetonitrile": "CC#N", "dimethyl sulfoxide": "CS(C)=O", "dimethylformamide": "CN(C)C=O",
    "tetrahydrofuran": "C1CCOC1", "dichloromethane": "ClCCl", "chloroform": "ClC(Cl)Cl", "ethyl acetate": "CCOC(C)=O",
    "dioxane": "C1COCCO1", "toluene": "Cc1ccccc1", "benzene": "c1ccccc1", "hexane": "CCCCCC", "ether": "CCOCC",
    "pyridine": "c1ccncc1",
}  # fmt: skip
"""What a salt or solvate holds beside the molecule that is meant: name and SMILES, neutral, without stereo."""


def block_smiles(block: str) -> tuple[str | None, str]:
    """The canonical SMILES of a MOL block, or None and the reason."""
    with rdBase.BlockLogs():
        molecule: Any = Chem.MolFromMolBlock(block)
        if molecule is None:
            loose: Any = Chem.MolFromMolBlock(block, sanitize=False)
            if loose is None:
                return None, "RDKit cannot read its block of atoms"
            problems = "; ".join(problem.Message() for problem in Chem.DetectChemistryProblems(loose))
            return None, problems or "RDKit cannot sanitize it"
        if molecule.GetNumAtoms() == 0:
            return None, "has no atoms"
        return str(Chem.MolToSmiles(molecule)), ""


@cache
def _names() -> dict[str, str]:
    """Normalised and uncharged flat SMILES → name."""
    forms = {name: _normalised(Chem.MolFromSmiles(text)) for name, text in COMPANIONS.items()}
    return {_flat_smiles(_uncharger().uncharge(molecule)): name for name, molecule in forms.items()}


@cache
def _uncharger() -> Any:
    return rdMolStandardize.Uncharger(True)


@cache
def _tautomers() -> Any:
    parameters: Any = rdMolStandardize.CleanupParameters()
    parameters.maxTautomers = parameters.maxTransforms = _TAUTOMERS
    return rdMolStandardize.TautomerEnumerator(parameters)


def _flat_smiles(molecule: Any) -> str:
    return str(Chem.MolToSmiles(molecule, isomericSmiles=False))


def parent(smiles: str, *, flat: bool) -> tuple[str | None, list[str], int]:
    """Canonical SMILES of the parent (None: SMILES that cannot be parsed), what was changed, and how many parts it has.

    Args:
        smiles: one SMILES.
        flat: also without stereo and as the canonical tautomer.
    """
    with rdBase.BlockLogs():
        molecule, _ = parse(smiles)
        if molecule is None:
            return None, [], 0
        changes: list[str] = []
        kept = _main_parts(molecule, changes)
        if flat:
            kept = [_flat(part, changes) for part in kept]
        names = sorted({str(Chem.MolToSmiles(part)) for part in kept})
        if _no_parent(names, kept, molecule):
            return str(Chem.MolToSmiles(molecule)), [], len(Chem.GetMolFrags(molecule))
        if len(names) > 1:
            changes.append(f"mixture of {len(names)} molecules kept")
        return ".".join(names), changes, len(names)


def _no_parent(names: list[str], parts: list[Any], molecule: Any) -> bool:
    """Whether a complex is no salt: cut off its metal nothing is left but that, or what RDKit cannot read."""
    if Chem.MolFromSmiles(".".join(names)) is None:
        return True
    bonded = any(atom.GetDegree() for atom in molecule.GetAtoms())
    return bonded and all(
        part.GetNumAtoms() == 1 and part.GetAtomWithIdx(0).GetFormalCharge() for part in parts
    )


def _normalised(molecule: Any) -> Any:
    """RDKit's normal form, but sulfoxides as S=O: so the parent of a salt is that of the base."""
    normal = Chem.RWMol(rdMolStandardize.Normalize(molecule))
    found = normal.GetSubstructMatches(_SULFOXIDE)
    for sulfur, oxygen in found:
        for atom in (sulfur, oxygen):
            normal.GetAtomWithIdx(atom).SetFormalCharge(0)
        normal.GetBondBetweenAtoms(sulfur, oxygen).SetBondType(Chem.BondType.DOUBLE)
    if found:
        Chem.SanitizeMol(normal)
    return normal.GetMol()


def _main_parts(molecule: Any, changes: list[str]) -> list[Any]:
    """The neutral parts that are neither counter-ion nor solvent; the largest where all of them are."""
    disconnected = rdMolStandardize.MetalDisconnector().Disconnect(molecule)
    parts = list(Chem.GetMolFrags(_normalised(disconnected), asMols=True))
    neutral = [_uncharger().uncharge(Chem.Mol(part)) for part in parts]
    kept = list(range(len(parts)))
    if len(parts) > 1:
        known = [_companion(part) for part in neutral]
        if None not in known:
            largest = max(kept, key=lambda i: (neutral[i].GetNumHeavyAtoms(), _flat_smiles(neutral[i])))
            known[largest] = None
        kept = [i for i in kept if known[i] is None]
        left = sorted({name for name in known if name is not None})
        if left:
            changes.append(f"without {', '.join(left)}")
    if any(_flat_smiles(neutral[i]) != _flat_smiles(parts[i]) for i in kept):
        changes.append("neutralised")
    return [neutral[i] for i in kept]


def _companion(part: Any) -> str | None:
    name = _names().get(_flat_smiles(part))
    if name is None and part.GetNumHeavyAtoms() == 1:  # metals keep their charge
        name = _names().get(f"[{part.GetAtomWithIdx(0).GetSymbol()}]")
    return name


def _flat(part: Any, changes: list[str]) -> Any:
    before = str(Chem.MolToSmiles(part))
    part = Chem.Mol(part)
    Chem.RemoveStereochemistry(part)
    flat = str(Chem.MolToSmiles(part))
    if flat != before:
        changes.append("without stereo")
    tautomer = _tautomers().Canonicalize(part)
    Chem.RemoveStereochemistry(tautomer)
    if Chem.MolToSmiles(tautomer) != flat:
        changes.append("canonical tautomer")
    return tautomer

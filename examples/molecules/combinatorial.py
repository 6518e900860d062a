"""The best products of a reaction without listing them: three lists of reagents, a few hundred measurements.

With SGGP_DATA_DIR, the folder of the published data, the reagents are the 376 x 500 x 500 of Klarich et al. (2024), 94
million products, and the hundred best are known. Without it they are 12 x 20 x 20 common ones. The "measurement" is the
similarity to a molecule, by other fingerprints than the model's; replace it by your own.

python examples/molecules/combinatorial.py            # 550 of 94 million in a minute or two; 120 of 4,800 in seconds
python examples/molecules/combinatorial.py --quick    # 30 of 4,800
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from sggp.bayesopt import Campaign, Combinatorial, Effort
from sggp.bayesopt.combinatorial import reagent_effects
from sggp.molecules import ProductFilter, Reaction

QUINAZOLINONE = "N[c:4][c:3]C(O)=O.[#6:1][NH2].[#6:2]C(=O)[OH]>>[C:2]c1n[c:4][c:3]c(=O)n1[C:1]"
WANTED = "CCc1cccc2c(=O)n(C3CNC3)c([C@@H](C)N)nc12"
AMINOBENZOIC = """Nc1ccccc1C(=O)O Nc1c(C)cccc1C(=O)O Cc1cccc(N)c1C(=O)O Cc1ccc(N)c(C(=O)O)c1 Nc1cc(F)ccc1C(=O)O
    Nc1ccc(F)cc1C(=O)O Nc1ccc(Cl)cc1C(=O)O Nc1cc(Cl)ccc1C(=O)O Nc1c(CC)cccc1C(=O)O COc1ccc(C(=O)O)c(N)c1
    COc1cccc(C(=O)O)c1N Nc1ccc(Br)cc1C(=O)O"""
AMINES = """CN CCN CCCN CC(C)N NC1CC1 NC1CCC1 NC1CCCC1 NC1CCCCC1 NCc1ccccc1 NCCc1ccccc1 NCC1CC1 COCCN NCCO NC1CNC1
    NC1COC1 NC1CCOCC1 NC1CCNCC1 NCC(F)(F)F NCc1ccco1 NCc1ccncc1"""
ACIDS = """CC(=O)O CCC(=O)O CCCC(=O)O CC(C)C(=O)O O=C(O)C1CC1 O=C(O)C1CCC1 O=C(O)C1CCCCC1 O=C(O)c1ccccc1 O=C(O)Cc1ccccc1
    COCC(=O)O CC(N)C(=O)O NCC(=O)O C[C@H](N)C(=O)O C[C@@H](N)C(=O)O O=C(O)C1CCNC1 O=C(O)c1ccco1 O=C(O)c1cccs1
    O=C(O)c1ccncc1 CC(O)C(=O)O O=C(O)C(F)F"""


def reaction_of(folder: Path | None) -> Reaction:
    """The published lists of reagents, or the small ones."""
    if folder is None:
        lists = [AMINOBENZOIC.split(), AMINES.split(), ACIDS.split()]
        named = [
            [(smiles, f"{letter}{n}") for n, smiles in enumerate(own, 1)]
            for letter, own in zip("ABC", lists, strict=True)
        ]
        return Reaction(QUINAZOLINONE, named, "quinazolinone")
    names = ("aminobenzoic_ok.smi", "primary_amines_500.smi", "carboxylic_acids_500.smi")
    return Reaction(QUINAZOLINONE, [folder / name for name in names], "quinazolinone")


def similarity() -> Callable[[str], float]:
    """What is measured: Tanimoto similarity of Morgan bits to the wanted molecule."""
    bits = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    wanted = bits.GetFingerprint(Chem.MolFromSmiles(WANTED))
    return lambda smiles: DataStructs.TanimotoSimilarity(
        wanted, bits.GetFingerprint(Chem.MolFromSmiles(smiles))
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    given = Path(os.environ.get("SGGP_DATA_DIR", ""), "reactions")
    folder = given if "SGGP_DATA_DIR" in os.environ and given.is_dir() and not options.quick else None
    start, batch, rounds = (20, 10, 1) if options.quick else (40, 20, 4) if folder is None else (200, 50, 7)

    effort = Effort(products=300, rounds=2) if options.quick else Effort()
    space = Combinatorial(
        reaction_of(folder), filters=ProductFilter(molecular_weight=(None, 600)), effort=effort
    )
    print("\n".join(space.library.describe()[:-1]))
    measure = similarity()
    with tempfile.TemporaryDirectory() as temporary:
        campaign = Campaign(
            space, Path(temporary, "c.db"), maximize=True, num_initial=start, seed=options.seed
        )
        for number in range(rounds + 1):
            for trial in campaign.ask(batch if number else start):
                campaign.tell(trial.id, measure(str(trial.smiles)))
            best = campaign.best(1)[0]
            print(
                f"{len(campaign.results())} measured: best {best.value:.3f}; {space.last_search or 'random'}"
            )
        print("the five best:")
        for trial in campaign.best(5):
            print(f"  {trial.value:.3f}  {trial.smiles}  =  {' + '.join(map(str, (trial.x or ())[1:]))}")
        print("the most useful reagents:")
        model = campaign.model(64, generator=0)
        for effect in reagent_effects(model, space, campaign.results(), generator=0)[:5]:
            print(f"  {effect.id:12} {effect.mean:+.3f} ± {effect.std:.3f}  {effect.smiles}")
        if folder is not None:
            with (folder / "quinazoline_top100_of_94M.csv").open(newline="") as stream:
                best_there_are = {Chem.CanonSmiles(row["SMILES"]) for row in csv.DictReader(stream)}
            found = best_there_are & {str(trial.key) for trial in campaign.results()}
            print(f"of the hundred best of {len(space):,} products {len(found)} were found")


if __name__ == "__main__":
    main()

"""SD files: the structure as SMILES, the title as id, the data items as columns."""

from __future__ import annotations

import re
from pathlib import Path

from sggp.errors import DataFileError
from sggp.molecules.files.grid import Grid

_ITEM = re.compile(r">.*?<([^>]*)>")


def is_sdf(name: str, text: str) -> bool:
    """Whether a file is one of molecules as blocks of atoms, by its name or its content."""
    if name.endswith((".sdf", ".sd", ".mol", ".mdl")):
        return True
    start = text[: 2**20]
    return ("V2000" in start or "V3000" in start) and re.search(
        r"^M  END\s*$", start, re.MULTILINE
    ) is not None


def read_sdf(path: Path, text: str, notes: list[str]) -> Grid:
    """The records of an SD file (or of one MOL block): columns "smiles", "id" (titles), then the data items.

    Raises:
        DataFileError: no block of atoms at all. MissingExtra: RDKit is not installed.
    """
    from sggp.molecules._chemistry import block_smiles  # RDKit is an extra

    blocks = _blocks(text)
    names: dict[str, None] = {}
    parsed, broken = [], []
    for line, lines in blocks:
        end = next((i for i, text in enumerate(lines) if text.startswith("M  END")), None)
        title = lines[0].strip()
        if end is None:
            broken.append((line, title or "untitled", "no block of atoms that ends with M  END"))
            continue
        items = _items(lines[end + 1 :])
        names.update(dict.fromkeys(items))
        smiles, reason = block_smiles("\n".join(lines[: end + 1]))
        if smiles is None:
            broken.append((line, title or "untitled", reason))
            continue
        parsed.append((line, smiles, title, items))
    if not parsed and all(reason.startswith("no block") for _, _, reason in broken):
        raise DataFileError(f"{path}: is no SD file: no block of atoms that ends with M  END is in it.")
    titles = any(title for _, _, title, _ in parsed)
    fields = [name for name in names if name]
    own = ["smiles", "id"] if titles else ["smiles"]
    taken = {name.lower() for name in fields}
    header = [*(name if name not in taken else f"{name} of the file" for name in own), *fields]
    if "smiles" in taken:
        header[0] = "structure"
        notes.append(
            "SMILES are made from the structures (column 'structure'); the file's own item is kept beside it"
        )
    records = [
        (line, [smiles, *([title] if titles else []), *(items.get(name, "") for name in fields)])
        for line, smiles, title, items in parsed
    ]
    notes.append(f"{len(records)} structures as SMILES; data items: {', '.join(fields) or 'none'}")
    return Grid(records, header=header, broken=broken, notes=notes)


def _blocks(text: str) -> list[tuple[int, list[str]]]:
    """(first line, lines) of every record."""
    out: list[tuple[int, list[str]]] = []
    lines: list[str] = []
    start = 1
    every = re.split("\r\n|\r|\n", text)
    for number, line in enumerate(every, start=1):
        if line.startswith("$$$$"):
            out.append((start, lines))
            lines, start = [], number + 1
        else:
            lines.append(line)
    if any(line.strip() for line in lines):
        out.append((start, lines))
    return [(line, block) for line, block in out if block]


def _items(lines: list[str]) -> dict[str, str]:
    """Data items: `> <NAME>`, then lines of text up to a blank one."""
    out: dict[str, str] = {}
    name, values = None, list[str]()
    for line in [*lines, ""]:
        if name is None:
            if found := _ITEM.match(line):
                name, values = found[1].strip(), []
        elif line.strip():
            values.append(line.strip())
        else:
            out.setdefault(name, " ".join(values))
            name = None
    return out

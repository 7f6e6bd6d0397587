"""layers.py: modules import downwards only.

The first table in the head of src/lib.rs lists the modules from the lowest layer to the highest one. A file names only
modules of its own row or of rows above it. Tests may name any module.
"""

import pathlib
import re
import sys

HEAD = pathlib.Path("src/lib.rs").read_text()
TEST = re.compile(r"(^|/)(tests?|loom_model|model|threads|stress|properties)(/|\.rs$)")


def layers():
    """The layer of each module, 0 for the lowest one."""
    table = HEAD[HEAD.index("# Modules") :]
    rows = []
    for line in table.splitlines()[1:]:
        if line.startswith("//! |"):
            rows.append(line)
        elif rows:
            break
    found = {}
    for number, row in enumerate(rows[2:]):
        for name in re.findall(r"`(\w+)`", row.split("|")[1]):
            found[name] = number
    return found


def code(file):
    """The lines of a file without comments, up to its tests."""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.startswith("#[cfg(test)]") or line.startswith("#[cfg(all(test"):
            return
        yield number, line.split("//")[0]


def main():
    known = layers()
    declared = set(re.findall(r"^(?:pub )?mod (\w+);", HEAD, re.MULTILINE)) - {"fuzzing"}
    faults = [f"src/lib.rs: `{name}` is not in the table of modules" for name in sorted(declared - set(known))]
    faults += [f"src/lib.rs: the table has `{name}`, which is no module" for name in sorted(set(known) - declared)]
    for file in sorted(pathlib.Path("src").rglob("*.rs")):
        name = file.relative_to("src").parts[0].removesuffix(".rs")
        if name not in known or TEST.search(str(file)):
            continue
        for number, line in code(file):
            for other in re.findall(r"\bcrate::(\w+)", line):
                if other in known and known[other] > known[name]:
                    faults.append(f"{file}:{number}: `{name}` names `{other}`, which is above it")
    if faults:
        sys.exit("\n".join(faults))


main()

"""sbom.py SBOM TRIPLE: leaves in cargo-cyclonedx' list only the crates that are linked into jetway for a machine.

The tool takes Cargo's metadata, in which features of the dev-dependencies count and build scripts have crates of their
own. `cargo tree` knows the crates of a build. The folder of the build is no part of the list either.
"""

import json
import pathlib
import subprocess
import sys


def linked(triple):
    """The name and version of each crate of the build, jetway itself included."""
    command = ["cargo", "tree", "--locked", "--edges", "normal", "--target", triple, "--prefix", "none", "--format", "{p}"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {(name, version.removeprefix("v")) for name, version, *_ in map(str.split, filter(None, lines))}


def main():
    file, triple = sys.argv[1:]
    text = pathlib.Path(file).read_text().replace(pathlib.Path.cwd().as_uri(), "file:///jetway")
    sbom = json.loads(text)
    crates = linked(triple)
    sbom["components"] = [crate for crate in sbom["components"] if (crate["name"], crate["version"]) in crates]
    root = sbom["metadata"]["component"]
    parts = [*sbom["components"], root]
    if missing := crates - {(part["name"], part["version"]) for part in parts}:
        sys.exit(f"{file}: the list lacks crates of the build: {sorted(missing)}")
    refs = {part["bom-ref"] for part in parts}
    sbom["dependencies"] = [
        entry | {"dependsOn": [ref for ref in entry.get("dependsOn", []) if ref in refs]}
        for entry in sbom["dependencies"]
        if entry["ref"] in refs
    ]
    pathlib.Path(file).write_text(json.dumps(sbom, indent=2) + "\n")


main()

"""style.py PATH...: what rustfmt and clippy do not check.

In the files below the paths, a comment line is no longer than rustfmt's `max_width`, except for rows of tables, and no
sentence of a comment begins with What, Who, Where or the like: such a sentence has its subject at its end. In the
documents and build files of the repository, one version of Rust is named: the `rust-version` of Cargo.toml.
"""

import pathlib
import re
import sys

COMMENT = {".rs": r"//[/!]?", ".go": "//", "": "#", ".mk": "#", ".py": "#", ".sh": "#", ".toml": "#", ".yaml": "#"}
SENTENCE = re.compile(r"(?:^|[.:;!?][)`'\"*]*) *(What|Whatever|Where|Wherever|Who|Whoever)\b")
VERSIONED = ["CONTRIBUTING.md", "Makefile", "README.md", ".ci/*", "docker/*", "src/*.md", "tests/*.md"]
RUST = re.compile(r"\brust[: ](\d+\.\d+)", re.IGNORECASE)


def files(path):
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in found if file.is_file() and file.suffix in COMMENT and not file.name.startswith("LICENSE")]


def comments(file):
    """The number, the line and the text of each comment line."""
    marker = re.compile(rf"\s*(?:{COMMENT[file.suffix]})(?!!/)\s?(.*)")
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if match := marker.match(line):
            yield number, line, match[1]


def setting(file, pattern):
    return re.search(pattern, pathlib.Path(file).read_text())[1]


def main():
    width = int(setting(".rustfmt.toml", r"max_width = (\d+)"))
    rust = setting("Cargo.toml", r'rust-version = "(.+)"')
    faults = []
    for file in (file for path in sys.argv[1:] for file in files(pathlib.Path(path))):
        for number, line, text in comments(file):
            if len(line) > width and not text.startswith("|"):
                faults.append(f"{file}:{number}: a comment of {len(line)} characters, more than {width}")
            if match := SENTENCE.search(text):
                faults.append(f"{file}:{number}: a sentence that begins with {match[1]}")
    for file in (file for pattern in VERSIONED for file in sorted(pathlib.Path().glob(pattern)) if file.is_file()):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            faults += [
                f"{file}:{number}: Rust {version}, but Cargo.toml has {rust}"
                for version in RUST.findall(line)
                if version != rust
            ]
    if faults:
        sys.exit("\n".join(faults))


main()

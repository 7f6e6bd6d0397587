"""What the sessions share: printing, asking the test for something, and calls that must be refused."""

import json
import sys
import traceback


def say(*parts):
    print(*parts, flush=True)


def ask(what):
    """Has the test do something to the server: a line that begins with `@`, answered by an empty one."""
    say(f"@{what}")
    sys.stdin.readline()


def told(what, error):
    """The error that a call ended in: its class and its text are what a program sees.

    Some texts of Go's protobuf library have one kind of space or another, by a hash of the program it is built into.
    """
    text = " ".join(str(error).split())
    if detail := getattr(error, "detail_text", None):
        text = f"{text} {json.loads(detail)}".replace("\\xa0", " ")
    say(f"{what}: {type(error).__name__}: {text}")


def finish(run):
    """Runs the session and ends the program; the steps print what they saw on the way."""
    try:
        run()
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        sys.exit(1)

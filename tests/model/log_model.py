"""Randomised model of the log's protocol: epochs, the writer, followers, compaction, operation ids, leases.

Run:  python3 log_model.py [runs] [seed] [-f FAULT] [-x RULE]     exit status 1 and the schedule on a violation
      python3 log_model.py seconds N                              as many random schedules as fit into N seconds
      python3 log_model.py faults [runs]                          exit status 1 if a fault or a dropped rule is not caught
-f plants a mistake of FAULTS, -x leaves out a rule of RULES; `1 SEED` repeats one schedule and prints it.

Change the model first when you change the protocol. The files, from the bottom: log (messages, the rule of validity, stream
and replicas), garbage (what an instance may remove), leases, writer, instance, scenarios and losses (arranged
beginnings), acceptance (a loss that is accepted), schedule (the random world and the checks).

Modelled: a stream with guarded publishes, commit delay, leader changes that drop uncommitted messages, stale refusals; cut
connections, partitions, lost, late and repeated requests, acknowledgements and replies; three replicas that lag, are wiped
or catch up by a snapshot; instances that write, follow, pause, crash and reload; guarded writes, batches, barriers, epoch,
floor and trim records, removals by a compactor of each instance, which goes on when another one writes; barriers that reads
share, with a pause between them; promises and votes of the instances, which confirm reads instead of them; leases with
keepalives and expiry; resignation to a named successor; messages and removals by other programs; removals of valid records
that a killed server forgets; a loss that an operator accepts, after which all that is left and not refuted is the truth.
Not modelled: changes of the voters, users and tokens, digest marks outside the log, removals that a leader change takes back,
a stream leader that lost committed messages, mirrors, clocks that run at different speeds, forged headers that carry the
next epoch or one whose record is lost. Of removals that a killed server forgets: those of void messages, those beside an
accepted loss, and those that an instance has not read or removed itself. Such an instance can remove the tombstone of a
message that came back behind its load, and the next load is refused. The compactor should compare all that was gone at its
load, and at each look behind it, with what is there.
"""

import random
import sys
import time

from log import Violation
from schedule import Sim

FAULTS = {
    "guardonly": "validity is what the guard let through",
    "nononce": "an epoch's number without its nonce",
    "deposedbarrier": "a barrier counts when acknowledged, not when it proves valid",
    "ackorder": "an acknowledgement counts for all before it",
    "goon": "a refused writer goes on",
    "torn": "a batch shows before its last record",
    "notrim": "removals without a trim record",
    "spend": "a void message spends an index",
    "otherposition": "another server's last sequence taken for the own position",
    "readagain": "a suspected loss is decided by reading the stream again, which a newer trim may have changed",
    "twice": "known operations are executed again",
    "eager": "an operation is sent again before the log has decided",
    "named": "a named successor writes before its epoch record is valid",
    "revokefirst": "a lease's end is no batch, and the revoke record goes first",
    "stalekeep": "a deposed writer answers keepalives",
    "ackclock": "the time of an acknowledgement taken for that of sending",
    "oldbarrier": "a barrier that was sent before a read came proves the read",
    "joinread": "a read joins the request of others that is on its way already",
    "forget": "a voter does not keep the promise that it gives to a candidate",
    "oldvote": "a vote that was given before the read came confirms the read",
    "joinvote": "a read joins a question for votes that is on its way already",
    "overtake": "a read that is confirmed by votes does not wait for the records in flight",
    "unsaid": "the trim record of an accepted loss does not name the sequences without a valid record",
    "lossyonce": "a later trim record does not repeat that a loss was accepted",
    "unsettled": "an instance that has accepted a loss goes on taking what is there",
    "anytrim": "the first of several trim records of one index ends the tolerance for holes",
    "monotonic": "a clock that stops while the process is suspended",
}

RULES = {
    "attempt": "a nonce for each attempt to take over, which counts only for the consumer it was made under",
    "voidfirst": "void messages go first",
    "voiddesc": "and from the last to the first",
    "voidtrim": "void messages go under a trim only",
    "barkeep": "barriers go under a trim only",
    "epochkeep": "epoch records are never removed",
    "floortag": "a trim record permits no removal of what a later floor superseded",
    "lossyholes": "while a loss is accepted, an index of one epoch is missing only where a sequence is",
    "lossynonce": "and an epoch whose writer has sent a message has the nonce of that",
    "refute": "and a message of a later epoch's writer refutes the records that reach past its beginning",
    "relearn": "also those that counted before it was read: the load starts again",
    "nameholes": "the trim record of an accepted loss names missing sequences, too, which a replica may still show",
    "lossreload": "a reader that meets the record of a loss which it does not know starts from nothing",
    "numbers": "and the number of an epoch whose record is lost is not used again",
    "lossyfloor": "a floor record that names a lower floor supersedes nothing",
    "noted": "tombstones go when the server has noted all removals before them",
    "inherit": "removals that a writer has not ended are kept through the trim records of the next one",
    "wholefrom": "an instance that runs looks for all above the floor, also up to the index of an accepted loss",
    "knownholes": "in a log that has lost messages an instance that runs knows all holes that its load found, not the last ones",
    "loadtrim": "a trim record that a load reads permits removals when it has loaded, too",
    "passover": "a load passes over a trim record that proved void, another program's copy for one",
    "batchtrim": "up to T the rest of a batch counts",
    "laterepoch": "a record of an epoch that follows one which may be missing in a hole behind the last epoch record is not void",
    "seqgap": "behind the trim record no sequence is missing",
    "holes": "an index may be missing only where a sequence is",
    "again": "a load whose trim record vanished starts again",
    "reload": "a follower that fell behind a trim starts from nothing",
    "steady": "another digest is a loss only if nothing was removed while the load ran",
    "ready": "an instance is ready when its consumer has brought what proves its end",
    "request": "the barrier that makes ready was stored after the consumer was made",
    "checks": "an instance that runs looks for what it has applied",
    "proveself": "a writer that checks sends a barrier, because the record that deposed it may have been removed",
    "confirm": "a missing record is a loss only when a barrier that was sent after the comparison is there and no trim explains it",
    "promise": "a candidate has promises of most voters before it sends its epoch record, unless the last epoch is its own",
    "voteready": "an instance votes once it is ready, since the process before it may have promised",
    "selfvote": "a writer that has promised another epoch does not vote for itself",
    "keepvote": "votes confirm no keepalive, since each may have been on its way for long",
    "failbarrier": "an answer without a record waits for a barrier",
    "unknown": "an asker that reloads answers its open writes as unknown",
    "epochname": "a request names its epoch, another one's writer refuses it",
    "replyepoch": "a reply counts only in the epoch that the request named last",
    "lowopen": "an operation below the asker's lowest open one is refused",
    "knownfail": "refusals are known operations, too",
    "drain": "a resigning writer drains before it names a successor",
    "newepoch": "each new epoch gives each lease its full TTL",
    "grace": "and an election timeout on top",
    "lastgrace": "which is the longest of all epochs, not the longer of the last two",
    "regrant": "a lease's deadline goes when its end is planned, the id may be granted again behind it",
    "keepbarrier": "a keepalive is answered an election timeout after its barrier was sent at the latest",
}

# Seeds that show what few schedules do, from longer searches. They are tried first.
FOUND = {"inherit": (11167,), "steady": (21068,)}

STEPS = (150, 400, 1000)


def schedule(seed, fault=None, off=()):
    """Runs one schedule, which the seed alone decides. Returns it and its violation, or None."""
    sim = Sim(seed, fault, off)
    try:
        sim.run(STEPS[seed % len(STEPS)])
    except Violation as v:
        return sim, v
    return sim, None


def search(seeds, fault=None, off=(), until=None):
    """Runs schedules to the first violation. Returns how many, the last schedule, its violation, and all answers."""
    runs = answers = 0
    sim = found = None
    for seed in seeds:
        try:
            sim, found = schedule(seed, fault, off)
        except Exception:
            print(f"the model itself fails with seed {seed}", file=sys.stderr, flush=True)
            raise
        runs, answers = runs + 1, answers + sim.done
        if found or (until and time.monotonic() > until):
            break
    return runs, sim, found, answers


def count(seed):
    while True:
        yield seed
        seed += 1


def report(seed, runs, sim, found, answers):
    """Prints the schedule of a violation, and always a summary at the end."""
    if found:
        print("\n".join(sim.trace))
        print(f"VIOLATION seed {sim.seed} ({sim.profile}): {found}")
    print(f"{runs} runs, seeds {seed} to {seed + runs - 1}, {answers} answers")
    print(f"{runs - bool(found)} passed, {int(bool(found))} failed")
    return int(bool(found))


def faults(runs):
    missed = 0
    planted = [(name, name, (), text) for name, text in FAULTS.items()]
    planted += [("without " + name, None, (name,), text) for name, text in RULES.items()]
    for name, fault, off, text in planted:
        tried, n = iter([*FOUND.get(off[0] if off else fault, ()), *range(1, runs + 1)]), 0
        while True:
            more, sim, found, _ = search(tried, fault, off)
            n += more
            if not found or not schedule(sim.seed)[1]:        # one that fails without the fault shows nothing
                break
        if found:
            print(f"{name} ({text}): caught by seed {sim.seed} ({sim.profile}): {found}", flush=True)
        else:
            missed += 1
            print(f"{name} ({text}): NOT caught in {n} runs", flush=True)
    print(f"{len(planted) - missed} passed, {missed} failed")
    return int(missed > 0)


def main(args):
    fault, off, words = None, (), []
    while args:
        word = args.pop(0)
        if word == "-f":
            fault = args.pop(0)
            if fault not in FAULTS:
                sys.exit(f"no fault {fault}: {', '.join(FAULTS)}")
        elif word == "-x":
            off += (args.pop(0),)
            if off[-1] not in RULES:
                sys.exit(f"no rule {off[-1]}: {', '.join(RULES)}")
        else:
            words.append(word)
    if words[:1] == ["faults"]:
        return faults(int(words[1]) if words[1:] else 5000)
    if words[:1] == ["seconds"]:
        # Each call tries other schedules; the seeds are printed, and so is the schedule of a violation.
        seed = random.SystemRandom().randrange(10**9)
        return report(seed, *search(count(seed), fault, off, time.monotonic() + float(words[1])))
    numbers = [int(w) for w in words]
    runs, seed = (numbers + [10000, 1][len(numbers):])[:2]
    return report(seed, *search(range(seed, seed + runs), fault, off))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

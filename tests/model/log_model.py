"""Randomised model of the log's protocol: epochs, the writer, followers, compaction, leases.

Run:  python3 log_model.py [runs] [seed] [-f FAULT] [-x RULE]     exit status 1 and the schedule on a violation
      python3 log_model.py seconds N                              as many random schedules as fit into N seconds
      python3 log_model.py faults [runs]                          each fault and each dropped rule must be caught
"""

import random
import sys
import time

from log import Violation
from schedule import MOODS, Sim

FAULTS = {}
RULES = {}


def one(seed, fault=None, off=(), mood=None, sizes=(150, 400, 1000)):
    sim = Sim(seed, fault, off, mood)
    try:
        sim.run(sizes[seed % len(sizes)])
    except Violation as v:
        return sim, v
    return sim, None


def main(a):
    fault, off, num, mood = None, (), [], None
    while a:
        w = a.pop(0)
        if w == "-f":
            fault = a.pop(0)
        elif w == "-x":
            off += (a.pop(0),)
        elif w == "-m":
            mood = a.pop(0)
        else:
            num.append(int(w))
    runs, seed = (num + [10000, 1][len(num):])[:2]
    done = 0
    import collections
    st = collections.Counter()
    t=time.time()
    for n in range(runs):
        sim, v = one(seed + n, fault, off, mood)
        done += sim.done
        if v:
            if runs == 1: print("\n".join(sim.trace))
            print(f"VIOLATION seed {sim.seed} mood {sim.mood} chaos {sim.chaos}: {v}")
            return 1
        st.update(epochs=sim.truth.ep, idx=sim.truth.idx, trims=sim.truth.trimmed>0, kept=sim.promises.answers, ended=len(sim.promises.ended), moves=sim.moves, aliens=sim.aliens, damage=len(sim.damage), lost=sum(x.lost for x in sim.inst), reloads=sim.reloads, told=0)
        st.update("told "+h for h in sim.told.values())
    print(runs, done, dict(st), time.time()-t)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The removable messages that one instance knows of, and the messages that it expects in the stream.

A key's old versions are tagged with the compaction floor in force when they were found: a trim record permits the removal
of those at or below its own floor. All the rest goes by the trim record's index.
"""


class Garbage:
    """Fed with valid records, barriers and void messages in the order of the log, from its start."""

    def __init__(self, floor=0, off=()):
        self.risen = 0                                        # the highest floor of all floor records
        self.floor, self.off = floor, off                     # the floor of the last trim record, before its floor record comes
        self.versions, self.revs, self.last = {}, {}, {}      # by key; first record of each revision; newest reserved record
        self.void, self.keys, self.reserved, self.bars = [], [], [], []
        self.todo, self.again, self.swept = [], False, False  # keys that a sweep has still to see
        self.whole, self.holes, self.removable = 0, [], set()
        self.inherited = []                                   # removals that other writers may not have ended, in turn

    def add(self, recs):
        for r in recs:
            if r.kind == "w":
                self.versions.setdefault(r.key, []).append((r.rev, r.seq, r.dead))
                self.revs.setdefault(r.rev, (r.seq, r.idx))
                if r.rev <= self.floor:                       # a load: what later messages have superseded comes back
                    self.compact(r.key)
            elif r.kind == "g":
                self.supersede(r.lease, r)
            elif r.kind == "v":
                self.supersede(r.lease, r, ends=True)
            elif r.kind == "f" and r.floor < self.risen and "lossyfloor" not in self.off:
                self.reserved.append((r.seq, False, r.idx))   # behind a void record that counts: the higher floor holds
            elif r.kind in "ft" or "epochkeep" in self.off:   # epoch records stay for ever
                self.supersede(r.kind, r)
                self.risen = max(self.risen, r.floor) if r.kind == "f" else self.risen
                if r.kind == "f" and r.floor > self.floor:
                    self.floor, self.again = r.floor, bool(self.todo)
                    self.todo = self.todo or sorted(self.versions)

    def supersede(self, what, r, ends=False):
        before = self.last.pop(what, None)
        if before is not None:
            self.reserved.append((before, False, r.idx))
        if ends:
            self.reserved.append((r.seq, True, r.idx))
        else:
            self.last[what] = r.seq

    def compact(self, key):
        """Versions at the floor itself stay, and below it the newest one, unless that is a delete."""
        kept, found = [], False
        for rev, seq, dead in reversed(self.versions[key]):
            if rev >= self.floor or not found and not dead:
                kept.append((rev, seq, dead))
            else:
                self.keys.append((seq, dead, self.floor))
            found = found or rev <= self.floor
        self.versions[key] = kept[::-1]

    def sweep(self, keys):
        """Sees some keys. True if that was the last one, and messages can go."""
        for _ in range(min(keys, len(self.todo))):
            self.compact(self.todo.pop(0))
            self.swept = True
            if not self.todo and self.again:                  # the floor has risen on the way
                self.todo, self.again = sorted(self.versions), False
        if self.swept and not self.todo:
            self.swept = False
            return bool(self.keys)
        return False

    def first_above_floor(self):
        """Sequence and index of the first record whose revision exceeds the floor, or None."""
        rev = min((rev for rev in self.revs if rev > self.floor), default=None)
        return self.revs.get(rev)

    def take(self, T, floor, seq):
        """Messages that may go under a trim record at a sequence: void ones descending, old versions, barriers; and tombstones."""
        void = sorted((q for q in self.void if q < seq), reverse="voiddesc" not in self.off)
        self.void = [q for q in self.void if q >= seq]
        goes = [k for k in self.keys if k[2] <= floor or "floortag" in self.off]
        self.keys = [k for k in self.keys if not (k[2] <= floor or "floortag" in self.off)]
        goes += [k for k in self.reserved if k[2] <= T and k[0] < seq]
        self.reserved = [k for k in self.reserved if not (k[2] <= T and k[0] < seq)]
        bars = [q for q, idx in self.bars if idx <= T and q < seq]
        self.bars = [(q, idx) for q, idx in self.bars if not (idx <= T and q < seq)]
        old, late = (sorted(q for q, dead, _ in goes if dead == ends) for ends in (False, True))
        self.removable.update(void, bars, old, late)          # after an accepted loss T may be above the floor
        if "voidfirst" in self.off:
            return old + bars + void, late
        return void + old + bars, late

    # --- what must be in the stream

    def begin_whole(self, begin, T, seqs):
        """All is there above the floor, behind index T and behind the trim record, which stands at `begin`, but for what may go.

        After an accepted loss T may lie above the floor.
        """
        first = min((q for idx, q in seqs.items() if idx > T), default=begin)
        above = self.first_above_floor() or (begin,)
        if "wholefrom" in self.off:
            above = (begin,)
        self.whole = max(self.whole, min(begin, first, above[0]))

    def must_be_there(self, q):
        return q >= self.whole and q not in self.removable and not any(a <= q <= b for a, b in self.holes)

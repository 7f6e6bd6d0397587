"""The log: its messages, the rule by which a reader takes them, and the stream with its replicas.

A state takes one message after the other and never reads from another server. The stream is a stream leader, which stores
what carries the right guard, and three replicas, each of which shows a prefix.
"""


class Violation(Exception):
    pass


class Rec:
    """A message. Kinds: e epoch, w key written or deleted, g lease granted, v lease ended, f floor, t trim, b barrier, x none
    of ours."""

    count = 0

    def __init__(self, kind, ep, no, idx, **kw):
        Rec.count += 1
        self.uid, self.kind, self.ep, self.no, self.idx = Rec.count, kind, ep, no, idx
        self.rev = self.ver = self.n = self.T = self.floor = self.op = self.dig = self.ttl = self.timeout = self.seq = self.granted = 0
        self.accepts, self.loss = False, None                 # an epoch record's; a trim record's, as State.loss
        self.cnt, self.key, self.dead, self.inst, self.lease, self.moved, self.decided = 1, None, False, None, None, None, 0
        self.__dict__.update(kw)

    def copy(self):
        r = Rec(self.kind, self.ep, self.no, self.idx)
        r.__dict__.update(self.__dict__, uid=r.uid)
        return r

    def __repr__(self):
        x = {"w": f"{self.key}{'-' if self.dead else ''} r{self.rev} {self.n + 1}/{self.cnt} op{self.op} {self.lease or ''}",
             "g": f"{self.lease} ttl{self.ttl} op{self.op}", "v": f"{self.lease} {self.n + 1}/{self.cnt} op{self.op}",
             "t": f"T{self.T} floor{self.floor}{' lossy' if self.loss else ''}", "f": f"floor{self.floor}"}.get(self.kind, "")
        return f"<{self.uid}:{self.kind} e{self.ep}.{self.no} i{self.idx} {x}>"


class Beginnings:
    """The beginnings of epochs, as the messages of their writers tell them: epoch records may be lost.

    A writer sends nothing before its epoch record is valid. So any message of its own proves that record, and with it that
    the records of earlier epochs stop at the index and the revision before it.
    """

    def __init__(self, off=()):
        self.begun, self.writers, self.off = {}, {}, off

    def learn(self, m):
        if m.kind == "e":
            self.begun.setdefault((m.ep, m.no), (m.idx - 1, m.rev))
        elif m.kind != "x":
            no, idx, rev = self.writers.get(m.ep) or (m.no, *self.begun.get((m.ep, m.no), (m.idx, m.rev)))
            if no == m.no:
                idx = min(idx, m.idx - 1 if m.kind == "b" else m.idx - m.n - 2)
                self.writers[m.ep] = no, idx, min(rev, m.rev - (m.kind == "w" or m.n > 0))

    def refute(self, ep, no, idx, rev):
        """Whether a record of an epoch, up to an index and a revision, is void."""
        if self.writers.get(ep, (no,))[0] != no and "lossynonce" not in self.off:
            return True
        return any(ep < later and (idx > top or rev > most) for later, (_, top, most) in self.writers.items())


class State:
    """A reader of the log: the state, and the rule that decides validity."""

    def __init__(self, T=0, tpos=0, fault=None, off=(), loss=None, beginnings=None):
        self.ep, self.no, self.idx, self.rev, self.floor, self.pos = 0, None, 0, 0, 0, 0
        self.kv, self.leases, self.ops, self.pending, self.owner = {}, {}, {}, [], None
        self.T, self.tpos, self.fault, self.off = T, tpos, fault, off     # up to T indexes may be missing
        self.trim_reached, self.digest_differs = T == 0, False
        self.gap, self.suspect, self.hole, self.part = False, False, False, None
        # A loss was accepted once: the sequence of the epoch record that did, and ranges of sequences before
        # it. Up to that record all of ours outside these ranges is valid, and nothing in them, whatever a
        # replica shows there.
        self.loss = loss
        # A loss is accepted now: all may be missing. A record that counted may be refuted later. Then the
        # load starts again.
        self.lenient, self.beginnings, self.taken, self.refuted = beginnings is not None, beginnings, {}, False
        self.left_out, self.gaps, self.at = set(), [], 0      # records not taken; ranges without a valid one; the last valid one
        self.void, self.undecided, self.holes = [], [], []    # void messages; those the next epoch decides; missing sequences
        self.epoch_at = 0                                     # sequence of the last valid epoch record
        self.confirmed = 0                                    # sequence of the last valid record or barrier
        self.trimmed = 0                                      # T of the last trim record
        self.timeout, self.before, self.longest = 0, 0, 0     # election timeouts: of this epoch, of the last, the longest

    def copy(self):
        s = State()
        s.__dict__.update(self.__dict__)
        s.kv, s.leases, s.ops = dict(self.kv), dict(self.leases), dict(self.ops)
        s.pending, s.void, s.undecided, s.holes = list(self.pending), [], list(self.undecided), []
        return s

    def whole(self):
        """Whether all that the log must hold was there so far."""
        return self.trim_reached or self.lenient

    def next_epoch(self):
        """While a loss is accepted the last epochs' records may be missing: their numbers are not used again."""
        later = self.beginnings.writers if self.lenient and "numbers" not in self.off else ()
        return max([self.ep, *later]) + 1

    def settle(self):
        """The accepted loss ends here: what is missing so far may be missing, and nothing behind it."""
        # Below the floor holes are many. The digest stands for what they held.
        named = [(a, b) for a, b, sure, rev in self.gaps if sure or rev > self.floor and "nameholes" not in self.off]
        self.loss = self.pos, () if self.fault == "unsaid" else tuple(named)
        self.trim_reached, self.T, self.lenient = True, self.idx, self.fault == "unsettled"

    def digest(self):
        return hash((self.rev, self.floor, tuple(sorted(self.kv.items())), tuple(sorted(self.leases.items()))))

    def apply(self, seq, r):
        """Takes one message; returns the records that became valid, or [] (void, barrier, or part of a batch)."""
        if seq <= self.pos:
            return []                                         # a new consumer may deliver again
        hole = seq != self.pos + 1
        if self.fault == "guardonly":
            self.pos = seq
            return [] if r.kind in "bx" else self.take([r])
        if "seqgap" not in self.off and self.trim_reached and hole and not self.lenient:
            self.suspect = True                               # behind the trim record no sequence may be missing
        if self.suspect:
            return []
        if hole:
            self.holes.append((self.pos + 1, seq - 1))
        if self.lenient:
            self.learn(r)
        got = self.validate(r, hole)
        if self.suspect:
            return []
        self.pos = seq
        if got:
            self.confirmed = seq
        elif r.kind == "b" and r.ep == self.ep and r.no == self.no and r.idx == self.idx and not self.pending:
            self.confirmed = seq                              # a barrier is valid if it names the last index
        elif self.fault == "spend" and r.kind == "x":
            self.idx += 1
        return got

    def note_gap(self, r):
        self.left_out.discard(r.seq)
        a, b = self.at + 1, r.seq - 1
        if a <= b:
            epoch_lost = r.ep != self.ep and r.kind != "e"
            self.gaps.append((a, b, epoch_lost or any(a <= q <= b for q in self.left_out), r.rev))
        self.at = r.seq

    def learn(self, r):
        if r.kind not in "bx":
            self.left_out.add(r.seq)
        if "refute" not in self.off and not (self.loss and r.seq <= self.loss[0]):
            self.beginnings.learn(r)
            if any(self.beginnings.refute(v.ep, v.no, v.idx, v.rev) for v in self.pending):
                self.void, self.pending = self.void + [v.seq for v in self.pending], []
            if "relearn" not in self.off:
                self.refuted = self.refuted or any(self.beginnings.refute(ep, *last) for ep, last in self.taken.items())

    def validate(self, r, hole):
        self.hole = self.hole or hole
        same = r.ep == self.ep and (r.no == self.no or self.fault == "nononce")
        if r.kind in "bx":
            if r.kind == "x":
                self.void.append(r.seq)
            return []
        if self.loss and r.seq <= self.loss[0]:
            if not any(a <= r.seq <= b for a, b in self.loss[1]):
                return self.take([r])
            self.void.append(r.seq)
            return []
        if self.lenient and (r.rev < self.rev or self.beginnings.refute(r.ep, r.no, r.idx, r.rev)):
            (self.undecided if r.ep >= self.ep else self.void).append(r.seq)
            return []
        nxt, p = self.idx + 1, self.pending
        may = self.may_skip(r)
        if r.kind == "e" and r.ep == self.ep + 1 and r.idx >= nxt:
            if r.idx == nxt:
                return self.take([r])
            if not may:
                self.suspect = True                           # a higher index is lag or loss, never void
                return []
        if same and r.kind != "e" and r.idx == nxt + len(p) and r.n == len(p) and (not p or p[0].op == r.op):
            p.append(r)
            return self.take(p) if r.n + 1 == r.cnt or self.fault == "torn" else []
        if same and r.kind != "e" and r.idx == nxt and r.n == 0:
            self.void += [v.seq for v in p]                   # begun again only after the other one was given up
            self.pending = [r]
            return self.take([r]) if r.cnt == 1 else []
        x = self.part                                         # a batch without its head, which a trim removed: it was whole
        if x and same and r.kind != "e" and not self.hole and r.idx == nxt and (r.op, r.n) == (x.op, x.n + 1):
            got = self.take([r])
            self.part = r
            return got
        follows = same and r.kind != "e" or r.kind == "e" and r.ep == self.ep + 1 or self.lenient and r.ep > self.ep
        if may and follows and r.idx >= nxt + len(p):
            self.gap = True                                   # a gap that the trim record permits
            got = self.take(([] if "batchtrim" in self.off else p) + [r])
            self.part = r if r.kind in "wv" else None
            return got
        later = r.ep > self.ep + (r.kind == "e") and self.holes and self.holes[-1][1] > self.epoch_at
        if later and self.trim_reached and not self.lenient and "laterepoch" not in self.off:
            self.suspect = True                               # its writer has seen an epoch record that is missing here
            return []
        (self.undecided if r.ep >= self.ep else self.void).append(r.seq)
        return []

    def may_skip(self, r):
        """Whether the records before this one may be missing. Of one epoch an index is missing where a sequence is.

        While a loss is accepted epoch records may be missing, too.
        """
        if not self.lenient and (self.trim_reached or r.idx > self.T + 1):
            return False
        if self.lenient and "lossyholes" in self.off:
            return True
        return self.hole or "holes" in self.off or self.lenient and r.ep > self.ep

    def take(self, recs):
        self.void += [v.seq for v in self.pending if v not in recs]
        if recs[-1].ep != self.ep:
            self.void, self.undecided = self.void + self.undecided, []
        self.pending, self.hole, self.part = [], False, None
        keeps = self.loss and "knownholes" not in self.off
        if not self.lenient and not self.trim_reached and recs[-1].idx <= self.T and not keeps:
            self.holes = []                                   # all of them are below the floor, if nothing was ever lost
        for r in recs:
            if self.lenient:
                self.note_gap(r)
            self.idx, self.ep, self.no = r.idx, r.ep, r.no
            if self.lenient:
                if not (self.loss and r.seq <= self.loss[0]):
                    self.taken[r.ep] = r.no, r.idx, max(r.rev, *self.taken.get(r.ep, (0, 0))[-1:])
            if r.op:
                self.ops[r.op] = r.idx - r.n
            self.rev = max(self.rev, r.rev)                   # the record before it may be gone: "the store is at revision R"
            if r.kind == "e":
                self.owner, self.before, self.timeout, self.epoch_at = r.inst, self.timeout, r.timeout, r.seq
                self.longest = max(self.longest, r.timeout)
            elif r.kind == "w":
                if r.dead:
                    self.kv.pop(r.key, None)
                else:
                    self.kv[r.key] = (r.rev, r.ver, r.op, r.lease or "")
            elif r.kind == "g":
                self.leases[r.lease] = (r.ttl, r.idx)         # an id may be granted again: the grant's index distinguishes them
            elif r.kind == "v":
                self.leases.pop(r.lease, None)
            elif r.kind == "f":
                self.floor = r.floor if "lossyfloor" in self.off else max(self.floor, r.floor)
            elif r.kind == "t":
                self.floor = max(self.floor, r.floor)
                self.trimmed = max(self.trimmed, r.T)
                if r.loss and r.loss > (self.loss or ()):     # it decides about all before it: to be read once more
                    self.suspect = "lossreload" not in self.off
                    self.loss = r.loss
                if r.T >= self.T and not self.lenient:        # older trim records: their values may be gone
                    self.digest_differs = self.digest_differs or r.dig != self.digest()
                    if r.seq >= self.tpos or self.fault == "anytrim":
                        self.trim_reached = True              # only the last one ends it: void ones went under each
        return recs


class Replica:
    """A copy of the stream that shows a prefix of it, whatever the stream leader has."""

    def __init__(self):
        self.stalled, self.changes = False, 0                 # changes grows when a message may have gone
        self.wipe()

    def wipe(self):
        self.changes += 1
        self.msgs, self.at, self.end, self.shown = {}, 0, 0, 0

    def advance(self, stream, n):
        if self.shown < self.end:                             # messages that a snapshot's sender still brings
            self.shown = min(self.end, self.shown + n)
            return
        for what, q, r in stream.entries[self.at:self.at + n]:
            if what == "store":
                self.msgs[q] = r
                self.end = self.shown = q
            elif what == "back":
                self.msgs[q] = r
            else:
                self.msgs.pop(q, None)
                self.changes += 1
            self.at += 1

    def snapshot(self, stream):
        """Catches up without the entries: removed messages never come, the others one by one."""
        shown, self.changes = self.shown, self.changes + 1
        self.msgs = {q: r for q, r in stream.msgs.items() if q <= stream.committed}
        self.at, self.end = len(stream.entries), stream.committed
        self.shown = min(shown, self.end)

    def behind(self, stream):
        return self.at < len(stream.entries) or self.shown < self.end

    def get(self, q):
        return self.msgs.get(q) if q <= self.shown else None

    def next_after(self, pos):
        for q in range(pos + 1, self.shown + 1):
            if q in self.msgs:
                return q
        return None


class Stream:
    """The stream leader's copy. The entries are its committed history, removals included, in which replicas follow."""

    def __init__(self):
        self.msgs, self.last, self.committed, self.entries = {}, 0, 0, []
        self.unnoted, self.notes = {}, 0                      # removals that a killed server forgets
        self.replicas = [Replica() for _ in range(3)]

    def store(self, r):
        self.last += 1
        self.msgs[self.last] = r
        r.seq = self.last

    def commit(self):
        self.committed += 1
        r = self.msgs[self.committed]
        self.entries.append(("store", self.committed, r))
        return r

    def remove(self, q):
        r = self.msgs.pop(q)
        self.entries.append(("remove", q, None))
        return r

    def note(self):
        self.unnoted, self.notes = {}, self.notes + 1

    def bring_back(self, q):
        """It is the only copy that a server forgets something of, so no other one is behind it."""
        self.msgs[q] = self.unnoted.pop(q)
        self.entries.append(("back", q, self.msgs[q]))
        for r in self.replicas:
            r.advance(self, len(self.entries))

    def drop_uncommitted(self, keep):
        gone = list(range(keep + 1, self.last + 1))
        for q in gone:
            self.msgs.pop(q)
        self.last = keep
        return gone

    def next_after(self, pos):
        for q in range(pos + 1, self.committed + 1):
            if q in self.msgs:
                return q
        return None


def last_trim(msgs, end, void=()):
    """T and sequence of the trim record that a load begins with: the highest T of those that no load has found void."""
    return max([(m.T, q) for q, m in msgs.items() if m.kind == "t" and q <= end and q not in void], default=(0, 0))


def state_before(msgs, end, void, fault, off):
    """An empty state for a load that begins with that trim record."""
    T, q = last_trim(msgs, end, void)
    return State(T, q, fault, off, loss=last_loss(msgs, end, void))


def last_loss(msgs, end, void=()):
    """The last loss that was accepted. Another program's trim record, which names none, may be the last one."""
    losses = [m.loss for q, m in msgs.items() if m.kind == "t" and q <= end and q not in void and m.loss]
    return max(losses, key=lambda loss: loss[0], default=None)


def holds(compare, version):
    """True if a guarded write's compare holds for a key's version, or for None if there is no such key."""
    what, value = compare
    if what == "revision":
        return (version[0] if version else 0) == value
    return what == "none" or (version is not None) == value

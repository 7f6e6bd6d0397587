"""The writer of one epoch: it plans, sends guarded messages without waiting, and counts acknowledgements in the order of the messages."""

from leases import Lessor

BARRIERS = 2                                                  # barriers in flight at once
PAUSE = 3                                                     # from one that several answers waited for to the next one
from log import Rec, holds


class InFlight:
    """A message in flight: its planned sequence, if it is acknowledged, the request it answers, the time it was sent."""

    def __init__(self, seq, rec, sent):
        self.seq, self.rec, self.sent, self.acked, self.asker = seq, rec, sent, False, None


class Read:
    """A request answered without a record. It waits until a message sent after it came has proved valid."""

    def __init__(self, asker, o, how):
        self.asker, self.o, self.how, self.seq = asker, o, how, None


class Writer:
    def __init__(self, inst, at, sent, plan=None):
        s = inst.s
        self.inst, self.sim, self.ep, self.no, self.at, self.next = inst, inst.sim, s.ep, s.no, at, at + 1
        self.plan, self.in_flight, self.reads, self.quiescing, self.seen = plan or s.copy(), [], [], False, at
        self.known = {}                                       # by instance start: the lowest open counter, answers by counter
        self.lessor = Lessor(inst, s, sent)
        self.resigning = self.resignations = self.named = 0   # a resignation: since when, which, and if it named its successor
        self.expiries, self.next_barrier = 0, 0
        self.round, self.joined = None, []                    # voters asked on behalf of reads, and reads for the next time

    def stop_writing(self, why):
        self.sim.log(f"{self.inst.i} stops writing: {why}")
        self.inst.w = None

    def meets_epoch(self, replica):
        if self.sim.fault == "goon":
            return False
        moved = False
        while (q := replica.next_after(self.seen)) is not None:
            self.seen, moved = q, True
            r = replica.msgs[q]
            if r.kind == "e" and r.ep > self.ep:
                self.stop_writing("another epoch")
                break
        return moved

    # --- requests

    def serve(self, asker, o, ep, low, vote=None):
        if ep != self.ep and "epochname" not in self.sim.off:
            return                                            # it names another epoch
        p, kind = self.plan, o["kind"]
        if vote is not None and self.is_confirmed({asker: vote}):
            o = dict(o, confirmed=True)
        if kind in "rj":
            return self.wait(asker, o, "ok" if kind == "r" else "barrier")
        if kind == "k":
            if o["lease"] not in p.leases:
                return self.wait(asker, o, "nolease")
            if not self.lessor.fresh() or not self.granted(o["lease"]):
                return self.wait(asker, o, "kept")
            self.lessor.keep(o["lease"], p.leases[o["lease"]])
            return self.reply(asker, o, self.inst.s.idx, "kept")
        start, counter = o["op"]
        k = self.known.setdefault(start, dict(low=0, done={}))
        if low > k["low"]:
            k["low"] = low
            k["done"] = {c: a for c, a in k["done"].items() if c >= low}
        if counter < k["low"] and "lowopen" not in self.sim.off:
            return                                            # its asker no longer waits, and its answer is forgotten
        if counter in k["done"] and self.sim.fault != "twice":
            if k["done"][counter]:
                self.reply(asker, o, *k["done"][counter])     # a known one is answered again
            return
        k["done"][counter] = None
        refusal = self.refusal(o)
        if refusal:
            if "knownfail" in self.sim.off:
                del k["done"][counter]
            if "failbarrier" in self.sim.off:
                return self.reply(asker, o, self.inst.s.idx, refusal)
            return self.wait(asker, o, refusal)
        if kind == "w":
            recs = self.batch([(key, o["dead"] and key in p.kv, o["lease"]) for key in o["keys"]], o["op"])
        elif kind == "g":
            recs = [Rec("g", self.ep, self.no, p.idx + 1, rev=p.rev, lease=o["lease"], ttl=o["ttl"], op=o["op"])]
        else:
            recs = self.end_of(o["lease"], o["op"])
        self.send_all(recs).asker = asker, o

    def refusal(self, o):
        p = self.plan
        if o["kind"] == "w" and not holds(o["cmp"], p.kv.get(o["keys"][0])):
            return "failed"
        if o["kind"] in "wv" and o["lease"] and o["lease"] not in p.leases:
            return "nolease"
        if o["kind"] == "g" and o["lease"] in p.leases:
            return "exists"
        return None

    def batch(self, changes, op):
        p = self.plan
        return [Rec("w", self.ep, self.no, p.idx + 1 + n, rev=p.rev + 1, key=k, n=n, cnt=len(changes), op=op, dead=dead,
                    lease=None if dead else lease, ver=0 if dead else p.kv.get(k, (0, 0))[1] + 1)
                for n, (k, dead, lease) in enumerate(changes)]

    def end_of(self, lease, op):
        """A lease's end is one batch: the deletes of its keys, then the revoke record."""
        recs = self.batch([(k, True, None) for k, v in sorted(self.plan.kv.items()) if v[3] == lease], op)
        for r in recs:
            r.cnt += 1
        v = Rec("v", self.ep, self.no, self.plan.idx + 1 + len(recs), rev=self.plan.rev + bool(recs), lease=lease, n=len(recs),
                cnt=len(recs) + 1, op=op, granted=self.plan.leases[lease][1])
        self.lessor.ending(lease)
        if self.sim.fault == "revokefirst":                   # not one batch: the revoke record, then the deletes
            v.idx, v.n, v.cnt = self.plan.idx + 1, 0, 1
            for r in recs:
                r.idx, r.cnt = r.idx + 1, r.cnt - 1
            return [v] + recs
        return recs + [v]

    def wait(self, asker, o, how):
        """All that waits is proved by whatever is sent next: a barrier, or a record that comes in between."""
        x = Read(asker, o, how)
        if how != "barrier" and (how != "kept" or "keepvote" in self.sim.off):
            if o.get("confirmed"):
                return self.confirmed(x)
            if self.sim.votes and self.sim.rng.random() < .7:
                self.joined.append(x)
                return self.ask_for_votes()
        self.reads.append(x)
        if self.sim.fault == "oldbarrier":
            x.seq = max((f.seq for f in self.in_flight if f.rec.kind == "b"), default=None)
        if self.sim.rng.random() < .7:
            self.end_turn()

    # --- votes: most voters confirm that no other instance has become the writer

    def is_confirmed(self, votes):
        """Each vote was sent after the request came that it is for."""
        own = self.inst.promised if "selfvote" not in self.sim.off else 0
        votes = {**votes, self.inst.i: own}
        return self.sim.is_majority({v for v, ep in votes.items() if ep is not None and ep <= self.ep})

    def ask_for_votes(self):
        if self.joined and not self.round:
            self.round = dict(token=object(), reads=self.joined, votes={})
            self.joined = []
            self.sim.ask_for_votes(self.inst, 0, self.round["token"])
        elif self.round and self.sim.fault == "joinvote":
            self.round["reads"] += self.joined
            self.joined = []

    def voted(self, voter, token, vote):
        if not self.round or token is not self.round["token"]:
            return
        self.round["votes"][voter] = vote
        if self.is_confirmed(self.round["votes"]):
            reads, self.round = self.round["reads"], None
            for x in reads:
                self.confirmed(x)
            self.ask_for_votes()

    def give_up_votes(self):
        """Too few voters answer, or they have promised another epoch: a barrier confirms the same."""
        self.reads += (self.round["reads"] if self.round else []) + self.joined
        self.round, self.joined = None, []
        self.end_turn()

    def confirmed(self, x):
        """It still waits for all in flight: another instance may have read and answered these records before they are acknowledged."""
        if not self.in_flight or self.sim.fault == "overtake":
            return self.finish_read(x, self.in_flight[0].seq - 1 if self.in_flight else self.next - 1)
        x.seq = self.next - 1
        self.reads.append(x)

    def end_turn(self):
        """Sends a barrier for all that waits, unless two are in flight, or the pause behind a shared one is not over."""
        waiting = [x for x in self.reads if not x.seq]
        barriers = sum(f.rec.kind == "b" for f in self.in_flight)
        if waiting and barriers < BARRIERS and self.sim.now >= self.next_barrier:
            if len(waiting) > 1:
                self.next_barrier = self.sim.now + PAUSE
            self.barrier()

    def reply(self, to, o, at, how):
        if o["op"] and o["kind"] in "wgv" and (how == "ok" or "knownfail" not in self.sim.off):
            self.known[o["op"][0]]["done"][o["op"][1]] = (at, how)
        self.sim.replies.append((to, o["op"], self.ep, at, how, o.get("token")))

    def granted(self, lease):
        """A keepalive rests on the grant: while that is in flight it waits, or else the lease could end before it began."""
        return self.inst.s.leases.get(lease) == self.plan.leases[lease]

    def expire(self):
        for lease in self.lessor.due(self.plan)[:1]:
            self.expiries += 1
            recs = self.end_of(lease, ("expiry", f"{self.ep}.{self.no}.{self.expiries}"))
            for r in recs:
                r.decided = self.sim.now
            self.send_all(recs)

    # --- sending

    def send_all(self, recs):
        for r in recs:
            self.plan.take([r])
            self.send(r)
        self.prove()
        return self.in_flight[-1]

    def send(self, r):
        self.in_flight.append(InFlight(self.next, r, self.inst.clock()))
        self.inst.publish(r, self.next - 1)
        self.next += 1

    def barrier(self):
        self.send(Rec("b", self.ep, self.no, self.plan.idx, rev=self.plan.rev))
        self.prove()

    def prove(self):
        """The last message that was sent proves all that came before."""
        for x in self.reads:
            x.seq = x.seq or self.next - 1

    def ack(self, uid, seq):
        f = next((f for f in self.in_flight if f.rec.uid == uid), None)
        if not f:
            return
        if seq != f.seq:                                      # refused, or stored elsewhere
            if self.sim.fault == "goon":
                self.in_flight.remove(f)
                return
            return self.stop_writing("refused")
        f.acked = True
        if self.sim.fault == "deposedbarrier" and f.rec.kind == "b":
            self.answer_reads(seq, f.sent)
        if self.sim.fault == "ackorder":
            for g in self.in_flight[:self.in_flight.index(f)]:
                g.acked = True
        while self.inst.w is self and self.in_flight and self.in_flight[0].acked:
            self.proved(self.in_flight.pop(0))

    def proved(self, f):
        s = self.inst.s
        got = self.inst.read(f.seq, f.rec)
        if s.suspect:
            return self.stop_writing("a hole")
        self.lessor.proved(got, f.sent)
        if self.inst.applied(got):
            return
        if f.asker:
            self.reply(*f.asker, s.idx, "ok")
        if f.rec.kind == "b" and "barkeep" in self.sim.off:
            self.sim.remove([f.seq])
        self.answer_reads(f.seq, f.sent)
        if self.inst.w is self:
            self.end_turn()

    def answer_reads(self, seq, sent):
        for x in [x for x in self.reads if x.seq and x.seq <= seq]:
            self.reads.remove(x)
            self.finish_read(x, seq)

    def finish_read(self, x, seq):
        if x.how == "kept":
            # The barrier proves that this instance was the writer when it sent it, which may be long ago.
            if not self.lessor.fresh() and not {"keepbarrier", "keepvote"} & set(self.sim.off):
                return self.wait(x.asker, x.o, "kept")
            if x.o["lease"] not in self.plan.leases:
                return self.wait(x.asker, x.o, "nolease")
            if not self.granted(x.o["lease"]):
                return self.wait(x.asker, x.o, "kept")
            self.lessor.keep(x.o["lease"], self.plan.leases[x.o["lease"]])
        self.reply(x.asker, x.o, seq if x.how == "barrier" else self.inst.s.idx, x.how)

    # --- resigning

    def resign(self):
        """Holds new requests, drains, names a successor, and stays the writer until a new epoch record is there."""
        if not self.resigning:
            self.resigning, self.resignations, self.named, self.quiescing = self.sim.now, self.resignations + 1, 0, False
            self.give_up_votes()
            if any(not x.seq for x in self.reads):
                self.barrier()
        elif not self.named and (not self.in_flight and not self.reads or "drain" in self.sim.off):
            self.named = 1
            y = self.sim.rng.choice([y for y in self.sim.inst if y is not self.inst])
            self.sim.log(f"{self.inst.i} names {y.i}")
            if self.sim.fault == "named":                     # writes in this epoch because it was named
                if y.s.idx == self.inst.s.idx and y.s.ep == self.ep and y.ready() and not y.w:
                    y.w = Writer(y, y.s.pos, y.clock())
                    self.stop_writing("named a successor")
                return
            if not y.w:
                y.named = (self.ep, self.resignations)
        elif self.sim.now > self.resigning + self.lessor.timeout:
            self.resigning = 0                                # nobody came: it goes on

    # --- compaction

    def compact(self):
        """A client asks for it. The floor rises, all else follows in the background."""
        p = self.plan
        floor = self.sim.rng.choice([p.rev, self.sim.rng.randint(p.floor, p.rev)])
        if floor > p.floor:
            self.send_all([Rec("f", self.ep, self.no, p.idx + 1, floor=floor, rev=p.rev)])

    def trim(self, T, floor, accepts=False):
        """Nothing is in flight: a trim record that is stored is valid. True once it is sent."""
        p = self.plan
        if self.resigning or self.in_flight:
            self.quiescing = not self.resigning               # nothing new is planned until then
            return False
        self.quiescing, T = False, max(T, p.trimmed)          # a record that may be missing may be so for ever
        if T <= 0:
            return True
        loss = p.loss if accepts or self.sim.fault != "lossyonce" else None
        r = Rec("t", self.ep, self.no, p.idx + 1, floor=floor, T=T, rev=p.rev, dig=p.digest(), loss=loss)
        if self.sim.fault == "notrim":
            r.seq = self.next
            self.inst.trimmed(r)
            return True
        self.send_all([r])
        return True

    def sweep(self):
        """Dropped rule: void messages go at any time, without a trim record."""
        for q in sorted(self.sim.stream.msgs):
            if q < self.at and self.sim.stream.msgs[q].kind == "x":
                self.sim.remove([q])

"""An instance: it follows the log by a consumer of its own, becomes ready, asks the writer and answers its clients."""

from garbage import Garbage
from log import Beginnings, Rec, State, last_loss, last_trim, state_before
from writer import Writer


READS_SENT = 2                                                # requests for reads on their way at once


class Instance:
    def __init__(self, sim, i):
        self.sim, self.i, self.paused, self.cut_off, self.starts, self.slept = sim, i, False, False, 0, 0
        self.timeout = sim.rng.choice([20, 60, 200])          # --election-timeout; the writer's own stands in its epoch record
        self.inbox, self.conn, self.down, self.cast = [], [], False, None
        self.boot()

    def boot(self):
        self.starts += 1
        self.start = f"{self.i}{'abcdefghijklmnopqrstuvwxyz'[self.starts % 26]}{self.starts // 26}"
        self.w, self.open, self.asked, self.counter, self.attempts = None, {}, None, 0, 0
        self.later = []                                       # reads for which two requests are on their way already
        self.named, self.lost, self.tries, self.void, self.refused = None, False, {}, set(), False
        self.promised, self.candidacy = 0, None               # no vote for older epochs; an epoch record that waits for promises
        self.beginnings = Beginnings(self.sim.off)            # they are kept through all loads that accept a loss
        self.conn = []
        self.sim.conns.append(self.conn)
        # The compactor: sweeps that have ended and removals, in turn; messages that it removes; the trim
        # record it waits for; tombstones, which wait until the removals before them are noted.
        self.jobs, self.removing, self.permit, self.wants = [], None, None, None
        self.late, self.gone, self.tombstones = [], set(), []
        if self.sim.rng.random() < .5:
            self.inbox = []                                   # else requests for the process before it arrive late
        self.reload()

    def clock(self):
        """The process's clock. It goes on while the process is suspended, or else old answers look fresh."""
        return self.sim.now - (self.slept if self.sim.fault == "monotonic" else 0)

    # --- following

    def reload(self):
        """A load from nothing, by a new consumer. The last trim record names the index up to which records may be missing."""
        sim, rep = self.sim, self.sim.stream.replicas
        self.rep = sim.rng.randrange(len(rep))
        view = rep[self.rep] if sim.rng.random() < .5 else None
        msgs, end = (view.msgs, view.shown) if view else (sim.stream.msgs, sim.stream.committed)
        self.s = state_before(msgs, end, self.void, sim.fault, sim.off)
        self.garbage = Garbage(msgs[self.s.tpos].floor if self.s.tpos else 0, sim.off)
        if sim.accepting is self:                             # --accept-data-loss: it takes what is there
            self.s = State(0, 0, sim.fault, sim.off, loss=last_loss(msgs, end), beginnings=self.beginnings)
        self.w, self.suspected_loss, self.seqs, self.shown, self.loaded = None, None, {}, None, False
        self.trim_read = None                                 # the last trim record that a load has read
        self.proved, self.need, self.born = "ready" in sim.off, None, sim.truth.idx
        self.token, self.loading = object(), self.view()
        if "attempt" not in sim.off:
            self.tries = {}                                   # an epoch record sent before this consumer proves nothing
        if sim.fault == "otherposition" and sim.rng.random() < .3:     # another server's last sequence taken for its own position
            self.s.pos, self.s.trim_reached, self.proved = sim.stream.committed, True, True

    def view(self):
        return self.rep, self.sim.stream.replicas[self.rep].changes

    def drop(self):
        self.sim.reloads += 1
        if "unknown" not in self.sim.off:
            self.give_up()
        self.reload()

    def ready(self):
        return self.s.whole() and self.proved and not self.lost

    def consume(self):
        if self.lost or self.down:
            return False
        rep = self.sim.stream.replicas[self.rep]
        if self.w:                                            # a writer's consumer brings the epoch records of others alone
            return self.w.meets_epoch(rep)
        nxt = rep.next_after(self.s.pos)
        if nxt is None:
            return False
        r = rep.msgs[nxt]
        before = self.s.idx
        got = self.read(nxt, r)
        if self.s.refuted:
            self.drop()
            return True
        if self.applied(got):
            return True
        if self.s.suspect or ("seqgap" in self.sim.off and not got and r.idx > before + 1):
            trim = self.sim.last_trim(self.void)
            if trim > (self.s.T, self.s.tpos):                # it fell behind a trim
                if "reload" in self.sim.off:
                    (self.s.T, self.s.tpos), self.s.trim_reached, self.s.suspect, self.s.hole = trim, False, False, True
                    return True
                self.drop()
                return True
            if self.s.suspect:
                self.decide_suspected_loss()
                return False
        if not self.s.whole() and self.s.pos >= self.s.tpos and "again" not in self.sim.off:
            if self.s.tpos in self.sim.stream.msgs and "passover" not in self.sim.off and self.loading == self.view():
                self.void.add(self.s.tpos)                    # it stands there and is none: another program's
            self.drop()                                       # or it was superseded while this load ran
            return True
        if got and got[-1].kind == "e":
            e = got[-1]
            mine = e.no in self.tries or (self.sim.fault == "nononce" and self.asked == e.ep)
            if mine and self.s.whole():
                self.proved = True
                if self.s.lenient:                            # messages that are missing so far may be, no others
                    self.become_loaded()
                    self.s.settle()
                self.w = Writer(self, nxt, self.tries.get(e.no, self.clock()))
                self.became_ready()
                if self.sim.accepting is self:
                    self.w.trim(self.s.T, self.garbage.floor, accepts=True)
        return True

    def read(self, q, r):
        got = self.s.apply(q, r)
        if r.kind == "b" and self.s.confirmed == q:
            self.garbage.bars.append((q, self.s.idx))
        return got

    def applied(self, recs):
        """Checks new valid records and answers those that waited for them. True if the state was thrown away."""
        was = self.ready()
        self.garbage.add(recs)
        self.garbage.void, self.s.void = self.garbage.void + self.s.void, []
        for r in recs:
            self.seqs[r.idx] = r.seq
            if self.shown is not None and r.idx != self.shown + 1:
                self.sim.fail(f"instance {self.i}: its watches skip from index {self.shown} to {r.idx}")
            if self.shown is not None:
                self.shown = r.idx
        for r in recs:
            if r.kind == "t":
                if self.loaded:
                    self.trimmed(r)
                elif "loadtrim" not in self.sim.off:
                    self.trim_read = r
        if self.s.digest_differs and self.s.trim_reached:     # another digest than the trim record's
            if self.sim.last_trim(self.void) > (self.s.T, self.s.tpos) or (self.loading != self.view() and "steady" not in self.sim.off):
                self.drop()                                   # messages went while it loaded: it may have read half of a removal
            else:
                self.lose("digest")
            return True
        if self.need is not None and self.s.confirmed >= self.need or "request" in self.sim.off and self.s.confirmed:
            self.proved = True
        if self.ready():
            if not was:
                self.became_ready()
            if recs:
                self.sim.check_state(self)
            self.settle()
        self.decide_suspected_loss()
        return self.lost

    def became_ready(self):
        if self.shown is None and self.ready():
            self.shown = self.s.idx
            self.sim.check_state(self)
            self.sim.check_given_up(self)
            self.become_loaded()

    def become_loaded(self):
        """From here on it knows what must be in the stream: all behind what the trim record of its load permits to be missing."""
        if self.loaded:
            return
        self.loaded = True
        self.garbage.holes = list(self.s.holes) + list(self.s.loss[1] if self.s.loss else ())
        self.garbage.begin_whole(max(1, self.s.tpos), self.s.T, self.seqs)
        if self.trim_read:                                    # messages that go under it may have been there before
            self.trimmed(self.trim_read)

    def trimmed(self, t):
        """A trim record came while it ran. The writer removes what goes under it, and what the writer before left."""
        p = self.garbage
        removal = p.take(t.T, t.floor, t.seq)
        p.begin_whole(t.seq, t.T, self.seqs)
        left = p.inherited if "inherit" not in self.sim.off or self.w else []
        p.inherited = left + [removal]
        if self.w:
            self.jobs += [("remove", what, t) for what in p.inherited if any(what)]
            p.inherited = []

    # --- compaction

    def work(self):
        """The compactor's turn. It goes on beside all else, through changes of the writer."""
        if self.removing:
            return
        if self.wants:                                        # a trim record, which the writer alone may write
            T, floor = self.wants
            if not self.w or self.w.trim(T, floor):
                self.wants = None
        elif self.ready() and self.garbage.todo and self.sim.rng.random() < .5:
            if self.garbage.sweep(self.sim.rng.randint(1, 3)):
                self.jobs.append(("swept",))
        elif self.jobs:
            job, *rest = self.jobs.pop(0)
            if job == "remove":
                (self.removing, self.tombstones), self.permit = rest
                self.gone.update(self.removing)
                if not self.removing:
                    self.removed()
            elif self.garbage.floor:
                first = self.garbage.first_above_floor()
                if not first:
                    self.wants = self.s.idx, self.garbage.floor
                elif first[0] in self.sim.stream.msgs:
                    self.wants = first[1] - 1, self.garbage.floor
        elif self.late:
            self.remove_tombstones()

    def remove(self, n):
        if self.removing:
            self.sim.remove(self.removing[:n], forgettable=True)
            self.removing = self.removing[n:]
            if not self.removing:
                self.removed()

    def removed(self):
        """The tombstones wait, and another trim record spares each load the holes."""
        stream = self.sim.stream
        self.late += [(self.tombstones, stream.notes)] if self.tombstones else []
        self.tombstones = []
        self.wants = self.permit.T, self.permit.floor

    def knows(self, q):
        """Whether it has read the message at this sequence, has removed it, or is still to read there."""
        return self.s.pos < q or q in self.gone or q in self.seqs.values()

    def remove_tombstones(self):
        """Those of one removal, once all before them are noted. The floor may have risen meanwhile.

        A message that is there again may have come back before the removal ended.
        """
        stream = self.sim.stream
        tombstones, notes = self.late[0]
        if "noted" not in self.sim.off:
            if stream.notes <= notes:
                return
            back = [q for q in sorted(self.gone) if q in stream.msgs]
            if back:
                self.sim.remove(back, forgettable=True)
                self.late[0] = tombstones, stream.notes
                return
        self.late.pop(0)
        self.sim.remove(tombstones)
        self.jobs.append(("swept",))

    def ask_ready(self):
        """Asks for a barrier after its consumer was made. The answer names a sequence to wait for, no more."""
        if not (self.proved or self.w or self.lost or self.cut_off or self.down):
            ws = [y for y in self.sim.inst if y.w]
            if ws:
                y = self.sim.rng.choice(ws)
                y.inbox.append((self.i, dict(kind="j", op=None, token=self.token), y.w.ep, 0))

    def move_consumer(self):
        self.rep = self.sim.rng.randrange(len(self.sim.stream.replicas))

    # --- noticing removals by another program

    def check(self):
        """Compares the records it applied with a server's list, up to the end of that list, which may be an old one.

        A missing record is only suspected to be lost: a trim record that this instance has not read yet may permit its
        removal. A barrier that was sent after the comparison decides it: such a trim record stands before the barrier.
        """
        if self.lost or self.suspected_loss or self.cut_off or self.down or "checks" in self.sim.off:
            return
        if self.w and not self.w.resigning and "proveself" not in self.sim.off:
            self.w.barrier()                                  # the next epoch's record may be gone: only a refused message shows it
        if self.s.suspect:                                    # a sequence is missing right before it: a trim, or a loss
            return self.suspect_loss(None)
        if not self.ready():
            return
        rep = self.sim.rng.choice(self.sim.stream.replicas)
        missing = [q for q in range(self.garbage.whole, rep.shown + 1) if q not in rep.msgs]
        lack = self.lacking(missing)
        if lack and "confirm" in self.sim.off:
            return self.lose(f"lacks sequence {lack[0]}")
        if lack:
            self.suspect_loss(missing)

    def lacking(self, missing):
        return [q for q in missing if q <= self.s.pos and self.garbage.must_be_there(q)]

    def suspect_loss(self, lack):
        self.suspected_loss = dict(token=object(), need=None, lack=lack)
        y = max((y for y in self.sim.inst if y.w), key=lambda y: y.w.ep, default=None)
        if y:                                                 # of the heartbeats that it receives, the highest epoch's
            y.inbox.append((self.i, dict(kind="j", op=None, token=self.suspected_loss["token"]), y.w.ep, 0))

    def decide_suspected_loss(self):
        d, rep = self.suspected_loss, self.sim.stream.replicas[self.rep]
        if not d or d["need"] is None or self.lost:
            return
        if d["lack"] is None and self.s.suspect:              # it cannot read on: its replica must have got that far
            if rep.shown >= d["need"]:
                self.suspected_loss = None
                if last_trim(rep.msgs, rep.shown, self.void) <= (self.s.T, self.s.tpos):
                    self.lose(f"a hole behind sequence {self.s.pos}")
        elif d["lack"] is None:
            self.suspected_loss = None
        elif self.s.confirmed >= d["need"]:
            self.suspected_loss = None
            lack = d["lack"]
            if self.sim.fault == "readagain":                 # a newer trim may have begun meanwhile
                lack = [q for q in range(self.garbage.whole, self.s.pos) if q not in self.sim.stream.msgs]
            lack = self.lacking(lack)
            if lack:
                self.lose(f"lacks sequence {lack[0]}")

    def lose(self, why):
        self.sim.log(f"{self.i} declares a loss: {why}")
        if not self.sim.damage:
            self.sim.fail(f"instance {self.i} declares a loss ({why}), nobody removed anything")
        if self.w:
            self.w.stop_writing("loss")
        self.give_up()
        self.lost = True

    # --- asking the writer

    def ask(self, o):
        self.counter += 1
        o["op"], o["at"], o["how"] = (self.start, self.counter), None, None
        self.sim.client_of[o["op"]] = o["n"]
        if o["kind"] == "r":                                  # a request is for all reads that came before it was sent
            o["with"] = []
            sent = [x for x in self.open.values() if x["kind"] == "r"]
            if sent and self.sim.fault == "joinread":
                return sent[-1]["with"].append(o)
            if len(sent) >= READS_SENT:
                return self.later.append(o)
        self.forward(o)

    def end_call(self, o, how):
        del self.open[o["op"]]
        for x in [o] + o.get("with", []):
            self.sim.answer(self, x, how)
        if o["kind"] == "r" and self.later:
            first, *rest = self.later
            first["with"], self.later = rest, []
            self.forward(first)

    def give_up(self):
        later, self.later = self.later, []
        for o in list(self.open.values()):
            self.end_call(o, "unknown")
        for o in later:
            self.sim.answer(self, o, "unknown")

    def forward(self, o):
        o["ep"] = self.s.ep
        self.open[o["op"]] = o
        self.send_request(o)

    def send_request(self, o):
        if self.s.owner is not None and (not self.cut_off or self.s.owner == self.i):
            low = min(c for _, c in self.open)                # the lowest counter still open
            vote = self.vote() if self.s.owner != self.i else None
            if self.sim.fault == "oldvote":                   # the last one that it gave, whenever that was
                self.cast, vote = vote, self.cast
            self.sim.inst[self.s.owner].inbox.append((self.i, o, o["ep"], low, vote))

    def receive_reply(self, op, ep, at, how, token):
        """A reply. It counts for the epoch that the request named last: an older writer's may be about an abandoned attempt."""
        if how == "barrier":
            if token is self.token:
                self.need = at
            elif self.suspected_loss and token is self.suspected_loss["token"]:
                self.suspected_loss["need"] = at
            if not self.lost and not self.down:
                self.applied([])
            return
        o = self.open.get(op)
        if o and (o["ep"] == ep or "replyepoch" in self.sim.off):
            o["at"], o["how"] = at, how
            self.settle()

    def settle(self):
        if not self.ready():
            return
        for op, o in list(self.open.items()):
            if o["at"] is not None and self.s.idx >= o["at"]:
                self.end_call(o, o["how"])
            elif o["kind"] in "wgv" and op in self.s.ops:     # its own consumer has brought its record
                self.end_call(o, "ok")
            elif self.s.ep > o["ep"]:                         # the log up to the next epoch record decides
                change = o["kind"] in "wgv"
                if change and self.s.gap and "unknown" not in self.sim.off:
                    self.end_call(o, "unknown")
                elif not change or self.sim.rng.random() < .4:
                    self.end_call(o, "never")
                else:
                    o["at"] = None
                    self.forward(o)                           # sent again, same operation id
        if self.sim.fault == "eager":                         # sent again before the log has decided, with a new id
            for op, o in list(self.open.items()):
                if o["kind"] == "w" and o["at"] is None and self.sim.rng.random() < .05:
                    del self.open[op]
                    o["was"] = op
                    self.ask(o)

    # --- becoming the writer

    def takeover(self):
        if self.w or not self.s.whole() or self.s.suspect or self.lost or self.down:
            return
        if self.sim.accepting not in (None, self):
            return
        guard, stream = self.s.pos, self.sim.stream
        if stream.next_after(guard) is None and (self.sim.rng.random() < .5 or self.refused):
            guard = stream.last                               # the refusal named a later end, the leader has no next message
        self.refused = False
        self.asked = self.s.next_epoch()
        if "attempt" not in self.sim.off:                     # a nonce for each attempt, not for each process
            self.attempts += 1
        no = f"{self.start}.{self.attempts}"
        self.tries[no] = self.clock()
        is_own = self.s.no is not None and self.s.no.split(".")[0] == self.start
        moved, self.named = self.named, None
        r = Rec("e", self.asked, no, self.s.idx + 1, rev=self.s.rev, inst=self.i, timeout=self.timeout, moved=moved,
                accepts=self.s.lenient)
        self.candidacy = None
        # The operator who accepts a loss has stopped the others.
        if not self.sim.votes or is_own or self.s.lenient or "promise" in self.sim.off:
            return self.publish(r, guard)
        self.promised = max(self.promised, self.asked)
        self.candidacy = dict(token=object(), given={self.i}, record=r, guard=guard)
        self.sim.ask_for_votes(self, self.asked, self.candidacy["token"])
        self.given(self.i)

    def given(self, voter):
        """An instance has promised to vote for no older epoch: with those of most voters the epoch record is sent."""
        c = self.candidacy
        c["given"].add(voter)
        if self.sim.is_majority(c["given"]):
            self.candidacy = None
            self.publish(c["record"], c["guard"])

    # --- voting

    def vote(self):
        """The lowest epoch whose writer this instance votes for; None while it may have forgotten a promise.

        It has promised that to a candidate, or has read the epoch's record. A process that has started again knows nothing of
        the promises of the one before it. Once it is ready, a message was stored behind the guard of each epoch record that
        these let through.
        """
        if not self.sim.votes or not (self.ready() or "voteready" in self.sim.off):
            return None
        return max(self.promised, self.s.ep)

    def asked_to_vote(self, asker, ep, token):
        if self.sim.fault != "forget":
            self.promised = max(self.promised, ep)
        self.sim.votes_sent.append((asker, self.i, token, self.vote()))

    def voted(self, voter, token, vote):
        if self.candidacy and token is self.candidacy["token"]:
            self.given(voter)
        elif self.w:
            self.w.voted(voter, token, vote)

    def publish(self, r, guard):
        self.conn.append((self, self.start, guard, r))
        self.sim.log(f"{self.i} sends {r} at {guard + 1}")

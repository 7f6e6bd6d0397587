"""One random schedule: the world around the instances, the order in which things happen, and the checks.

A truth reader takes every message when it commits, by the strict rule. Each instance and each answer is held against it.
"""

import random

from acceptance import Acceptance
from instance import Instance
from leases import LeaseChecks
from log import Rec, State, Stream, Violation, holds, last_trim, state_before
from losses import LOSSES
from scenarios import SCENARIOS

KEYS = "abc"
ARRANGED = {**SCENARIOS, **LOSSES}

# A profile makes some steps more frequent than others. A rare fault shows its effect only beside others of
# its kind.
PROFILES = {
    "plain": {},
    "trims": dict(compact=3, work=3, remove=3, reload=12, snapshot=4, takeover=2, check=4, stalls=.3),
    "epochs": dict(takeover=3, cut=2, reload=20, move=3),
    "leases": dict(leases=1, long=2, takeovers=.7, partitions=.7, pause=2, expire=4, client=2, serve=2, reply=2),
    "slow": dict(slow=1, resend=6, dup=10, client=1.5, takeovers=1.5, stalls=.5, serve=1.5, reply=.5),
    "moves": dict(move=8, client=1.5, serve=1.5),
    "foreign": dict(foreign=8, compact=2, work=2, remove=2, reload=6),
    "loss": dict(foreign_removals=.3, operators=.5, foreign=4, compact=2, work=2, remove=2, check=2, takeover=2, crash=.3),
    "removal": dict(foreign_removals=.3, compact=2, work=2, remove=2, check=4, replicate=.7),
    "replicas": dict(replicate=.4, wipe=6, snapshot=4, reload=12, move_consumer=3, check=2),
}


class Sim(Acceptance):
    def __init__(self, seed, fault=None, off=(), profile=None):
        self.rng, self.seed, self.fault, self.off = random.Random(seed), seed, fault, off
        Rec.count = 0
        rng = self.rng
        self.profile = profile or rng.choice(list(PROFILES) + list(ARRANGED))
        self.more = PROFILES.get(self.profile, {})
        self.hold_replies = False
        self.now, self.stream = 0, Stream()
        self.waiting, self.acks, self.conns, self.trace, self.replies = {}, [], [], [], []
        self.truth, self.valid, self.hist, self.snap, self.leases_at = State(), {}, {0: State().digest()}, {0: {}}, {0: ()}
        self.lease_checks = LeaseChecks(self)
        self.happened, self.client_of, self.outcomes = {}, {}, {}  # index by operation; request by operation; answer by request
        self.seen, self.reloads, self.requests, self.done = 0, 0, 0, 0  # seen: highest index that any answer has shown
        self.damage, self.foreign_messages, self.moves = [], 0, 0
        self.given_up = {}                                    # messages that were lost, by sequence, once that is accepted
        self.orphans = set()                                  # keys that lost their lease, with their revisions
        self.accepting, self.accepted = None, 0               # the instance that was started with --accept-data-loss
        self.chaos, self.load = rng.choice([.05, .2, .5, 1.5, 4]), rng.choice([5, 10, 20])
        self.inst = []
        self.votes, self.votes_asked, self.votes_sent = rng.random() < .5, [], []  # whether each instance is a voter
        for i in range(rng.randint(2, 4)):
            self.inst.append(Instance(self, i))
        self.set_weights()

    def log(self, s):
        self.trace.append(f"{self.now:4} {s}")

    def fail(self, s):
        raise Violation(s)

    # --- votes

    def is_majority(self, voters):
        return 2 * len(voters) > len(self.inst)

    def ask_for_votes(self, x, ep, token):
        self.votes_asked += [(x.i, y.i, ep, token) for y in self.inst if y is not x]

    def carry_votes(self, most, loss=0):
        """Delivers questions for votes and votes, in any order."""
        for _ in range(most):
            queue = self.rng.choice([q for q in (self.votes_asked, self.votes_sent) if q] or [None])
            if not queue:
                return
            asker, voter, *rest = queue.pop(self.rng.randrange(len(queue)))
            here = self.inst[voter if queue is self.votes_asked else asker]
            if any(self.inst[i].cut_off for i in (asker, voter)) or here.paused or here.down or self.rng.random() < loss:
                continue
            if queue is self.votes_asked:
                here.asked_to_vote(asker, *rest)
            else:
                here.voted(voter, *rest)

    # --- the stream

    def last_trim(self, void=()):
        return last_trim(self.stream.msgs, self.stream.committed, void)

    def remove(self, seqs, forgettable=False):
        """Removes messages. A server that is killed may forget the removal of a valid record."""
        for q in seqs:
            if q in self.stream.msgs and q != self.stream.last and q <= self.stream.committed:
                r = self.stream.remove(q)
                self.log(f"removed {q} {r}")
                if forgettable and r.uid in self.valid:
                    self.stream.unnoted[q] = r

    def deliver(self, c):
        who, start, guard, r = c.pop(0)
        if self.rng.random() < self.chaos / 100:
            self.acks.append((who, start, r.uid, None))       # a stale refusal
        if guard != self.stream.last:
            self.log(f"refused {r}")
            return self.acks.append((who, start, r.uid, None))
        self.stream.store(r)
        self.waiting[r.seq] = (who, start, r.uid, r.seq)
        self.log(f"stored {r.seq} {r}")

    def commit(self):
        r = self.stream.commit()
        q = r.seq
        if q in self.waiting:
            self.acks.append(self.waiting.pop(q))
        t = self.truth
        got = self.loss_accepted(q, r) if self.accepting and r.kind == "e" and r.accepts else t.apply(q, r)
        t = self.truth
        for v in got:
            if v.inst == "foreign":
                self.fail(f"a foreign message is valid: {v}")
            self.valid[v.uid] = v.idx
            if v.op:
                self.op_is_valid(v)
            if v.kind in "gv":
                self.lease_checks.record(v)
            if v.kind == "t" and v.loss and self.accepting and v.no.split(".")[0] == self.accepting.start:
                self.accepting, self.accepted = None, self.accepted + 1
                for x in self.inst:
                    if x.down:
                        x.down = False
                        x.boot()
            if v.kind == "e" and v.moved:
                for x in self.inst:
                    if x.w and x.w.resigning and (x.w.ep, x.w.resignations) == v.moved and x.w.in_flight:
                        self.fail(f"moved from {x.i} while it had {len(x.w.in_flight)} in flight")
                self.moves += 1
            self.hist.setdefault(v.idx, None)
        if got:
            self.hist[t.idx], self.snap[t.idx], self.leases_at[t.idx] = t.digest(), dict(t.kv), tuple(t.leases)
            for k, v in t.kv.items():
                if v[3] and v[3] not in t.leases and (k, v[0]) not in self.orphans:
                    self.fail(f"{k} outlives its lease {v[3]} at index {t.idx}")
        elif t.suspect:
            self.fail(f"the log itself looks like a loss at {r}")

    def op_is_valid(self, v):
        at, n = v.idx - v.n, self.client_of.get(v.op)
        if self.happened.setdefault(v.op, at) != at:
            self.fail(f"op{v.op} is valid twice")
        if n is None:
            return
        if self.happened.setdefault(n, at) != at:
            self.fail(f"request {n} is valid twice")
        if self.outcomes.get(n) not in (None, "ok", "unknown"):
            self.fail(f"request {n} was answered {self.outcomes[n]!r} and is valid now")

    def acknowledge(self, who, start, uid, seq):
        if who.start != start:
            return
        if who.paused or who.cut_off:
            self.acks.append((who, start, uid, seq))
        elif who.w:
            who.w.ack(uid, seq)
        elif seq is None:
            who.refused = True                                # a refusal names the end

    def leader_change(self):
        for q in self.stream.drop_uncommitted(self.rng.randint(self.stream.committed, self.stream.last)):
            self.waiting.pop(q, None)
        self.log(f"leader change, last {self.stream.last}")

    def foreign_message(self, copied=None):
        """Another program writes: without a header, with one that it copied, or with garbage in it."""
        rng, st, t = self.rng, self.stream, self.truth
        stored = [q for q in st.msgs if q <= st.committed]
        how = rng.random()
        if copied:
            r = st.msgs[copied].copy()
        elif how < .35 or not stored:
            r = Rec("x", -1, None, -1)
        elif how < .7 or self.accepting:
            r = st.msgs[rng.choice(stored)].copy()
        else:
            r = Rec(rng.choice("wfteb"), t.ep, "garbage", t.idx + rng.randint(0, 2), rev=t.rev + 1, key="a", ver=1, T=t.idx + 9)
        r.inst = "foreign" if r.kind != "e" else r.inst
        st.store(r)
        self.foreign_messages += 1
        self.log(f"foreign {r.seq} {r}")

    def foreign_removal(self, q=None):
        st = self.stream
        stored = [q for q in st.msgs if q <= st.committed]
        if stored and not self.accepting:
            q = q or self.rng.choice(stored[-12:] if self.rng.random() < .5 else stored)
            self.damage.append(st.msgs[q])
            self.log(f"another program removed {q} {st.remove(q)}")

    # --- checks

    def check_state(self, x):
        i = x.s.idx
        if i not in self.hist:
            self.fail(f"instance {x.i} applied index {i}, which the valid log does not have")
        if i < x.born:
            self.fail(f"instance {x.i} serves index {i}, the log was at {x.born} when its consumer was made")
        if i > x.s.T and self.hist[i] is None:
            self.fail(f"instance {x.i} shows part of a batch at index {i}")
        if i > x.s.T and self.hist[i] != x.s.digest():
            self.fail(f"instance {x.i} differs at index {i}: {x.s.kv} rev {x.s.rev}, valid {self.snap[i]}")

    def check_given_up(self, x):
        """A message that an accepted loss has given up is not part of any later state, nor of the history above the floor."""
        for i, q in x.seqs.items():
            m = self.given_up.get(q)
            if m and m.kind == "w" and m.rev > x.s.floor:
                self.fail(f"instance {x.i} has {m} at index {i}, which was given up")

    def answer(self, x, o, how):
        op, n, s = o["op"], o["n"], x.s
        self.log(f"{x.i} answers {n} op{op} {o['kind']} {how} at {s.idx}")
        self.done += 1
        self.outcomes[n] = how
        if how in ("ok", "failed", "nolease", "exists", "kept") and not x.ready():
            self.fail(f"instance {x.i} answers request {n}, it is not ready")
        if how in ("never", "failed", "nolease", "exists") and n in self.happened:
            self.fail(f"request {n} was answered {how!r} but is valid")
        if how == "ok" and o["kind"] in "wgv":
            if op not in self.happened or s.ops.get(op, self.happened[op]) != self.happened[op]:
                self.fail(f"op{op} answered, not in the valid log at that index")
            self.seen = max(self.seen, self.happened[op])
        elif how == "ok":
            if s.idx < o["low"]:
                self.fail(f"read {n} at index {s.idx}, {o['low']} was answered before it began")
            self.seen = max(self.seen, s.idx)
        elif how == "failed":
            if not any(not holds(o["cmp"], self.snap[i].get(o["keys"][0])) for i in self.snap if i >= o["low"]):
                self.fail(f"request {n} failed its compare, which held all the time")
        elif how == "nolease":
            if not any(o["lease"] not in self.leases_at[i] for i in self.leases_at if i >= o["low"]):
                self.fail(f"request {n}: lease {o['lease']} not found, it was there all the time")
        elif how == "exists":
            if not any(o["lease"] in self.leases_at[i] for i in self.leases_at if i >= o["low"]):
                self.fail(f"request {n}: lease {o['lease']} exists, it was never there")

    # --- the schedule

    def client(self, x):
        rng = self.rng
        self.requests += 1
        kinds = "kkkkkkkkggwr" if "leases" in self.more else "wwwwwwwrrrsskgv"
        o = dict(n=self.requests, kind=rng.choice(kinds), low=self.seen, lease=None)
        live = sorted(x.s.leases)
        if o["kind"] == "s":                                  # serializable: at once, from its own state
            self.check_state(x)
            self.done += 1
            return
        if o["kind"] == "w":
            o["keys"] = rng.sample(KEYS, rng.choice([1, 1, 2, 3]))
            o["dead"] = rng.random() < .3
            owner = self.inst[x.s.owner]
            src = owner.w.plan if owner.w and rng.random() < .7 else x.s
            rev = src.kv.get(o["keys"][0], (0,))[0]
            o["cmp"] = rng.choice([("revision", rev), ("revision", rev), ("present", rng.random() < .5), ("none", 0)])
            if live and rng.random() < .5:
                o["lease"] = rng.choice(live)
        elif o["kind"] == "g":
            o["lease"], o["ttl"] = f"L{self.requests}", rng.choice([20, 20, 50])
            if rng.random() < .4:
                o["lease"] = f"L{rng.randint(1, 9)}"          # an id that there was, or is
        elif o["kind"] in "kv":
            mine = [lease for lease in live if int(lease[1:]) % len(self.inst) == x.i]
            if not live or o["kind"] == "k" and not mine:
                return
            o["lease"] = rng.choice(mine if o["kind"] == "k" else live)
        x.ask(o)

    def set_weights(self):
        """The frequency of each step. Those with ch are faults; their number differs between schedules."""
        ch, more = self.chaos, self.more
        w = dict(votes=30 if self.votes else 0, unvoted=2 * self.votes, deliver=22, commit=22, ack=22, replicate=14, consume=30, serve=20, reply=16, progress=6 / (1 + ch),
                 client=self.load, ready=6, barrier=1, compact=3, work=8, remove=4, expire=4, move=.3, check=1, resend=.5,
                 foreign_removal=0, operator=0, note=2, forgetful=ch / 4,
                 leader=ch, cut=ch, late=ch / 2, pause=ch, crash=ch / 2, reload=ch / 4, takeover=2 * ch, partition=ch / 4,
                 wipe=ch / 8, snapshot=ch / 4, stall=ch / 4, move_consumer=ch / 4, foreign=ch / 12)
        for k, f in more.items():
            if k in w:
                w[k] *= f
        for k in ("takeover", "stall", "partition", "foreign_removal", "operator"):
            w[k] += more.get(k + "s", 0)
        self.dup = .05 * more.get("dup", 1)
        self.names, acc = list(w), 0
        self.cum = []
        for k in self.names:
            acc += w[k]
            self.cum.append(acc)

    def tick(self, n):
        self.now += n
        for x in self.inst:
            x.slept += n if x.paused else 0

    def step(self):
        rng, ch = self.rng, self.chaos
        self.tick(1)
        a = rng.choices(self.names, cum_weights=self.cum)[0]
        up = [x for x in self.inst if not x.paused and not x.down]
        if a == "deliver":
            c = [c for c in self.conns if c and not c[0][0].cut_off]
            if c:
                c = rng.choice(c)
                for _ in range(min(len(c), rng.choice([1, 2, 4]))):
                    self.deliver(c)
        elif a == "commit":
            for _ in range(min(self.stream.last - self.stream.committed, rng.choice([1, 2, 4]))):
                self.commit()
        elif a == "ack":
            for _ in range(min(len(self.acks), rng.choice([1, 2, 4]))):
                who, start, uid, seq = self.acks.pop(rng.randrange(min(3, len(self.acks))))
                if rng.random() > ch / 60:
                    self.acknowledge(who, start, uid, seq)
        elif a == "replicate":
            r = rng.choice(self.stream.replicas)
            if not r.stalled:
                r.advance(self.stream, rng.choice([1, 3, 9, 99]))
        elif a == "stall":
            r = rng.choice(self.stream.replicas)
            r.stalled = not r.stalled
        elif a == "wipe":
            if not self.accepting:                            # it would show the lost messages once more, see operator
                rng.choice(self.stream.replicas).wipe()
        elif a == "snapshot":
            rng.choice(self.stream.replicas).snapshot(self.stream)
        elif a == "leader":
            self.leader_change()
        elif a == "foreign":
            self.foreign_message()
        elif a == "note":
            self.stream.note()
        elif a == "forgetful":                                # the server of the only copy is killed
            # A compactor that has read the log without a message does not look for it: see log_model.
            unnoted = [q for q in sorted(self.stream.unnoted) if all(x.knows(q) for x in self.inst)]
            if unnoted and self.profile not in ("loss", *LOSSES):
                q = rng.choice(unnoted)
                self.stream.bring_back(q)
                self.log(f"{q} is there again")
        elif a == "foreign_removal":
            self.foreign_removal()
        elif a == "operator":
            self.operator()
        elif a == "pause":
            x = rng.choice(self.inst)
            x.paused = not x.paused
            self.log(f"{x.i} {'pauses' if x.paused else 'wakes'}")
        elif a == "partition":
            x = rng.choice(self.inst)
            x.cut_off = not x.cut_off
            self.log(f"{x.i} is {'cut off' if x.cut_off else 'back'}")
        elif a == "reply":
            if self.replies:
                r = self.replies.pop(rng.randrange(len(self.replies)))
                if rng.random() < .9:
                    self.inst[r[0]].receive_reply(*r[1:])
        elif a == "votes":
            self.carry_votes(rng.choice([1, 2, 4]), .1)
        elif a == "progress":
            self.progress(up)
        elif not up:
            return
        elif a == "serve":
            y = [y for y in up if y.inbox]
            if y:
                self.serve(rng.choice(y))
        elif a == "takeover":
            # A named successor comes soon; without a writer everybody is a candidate; else heartbeats were
            # lost.
            x = rng.choice([y for y in up if y.named] or [y for y in up if not y.w and not y.cut_off] or up)
            x.takeover()
        else:
            self.act(a, rng.choice(up), [y for y in up if y.w])
        if a == "consume" and rng.random() < .1:              # no heartbeats: somebody else tries
            reach = [y for y in up if not y.cut_off]
            if reach and not any(y.w for y in reach):
                rng.choice(reach).takeover()

    def serve(self, y):
        if y.w and (y.w.resigning or y.w.quiescing):
            return
        if not y.inbox:
            return
        n = self.rng.randrange(len(y.inbox))
        if y.cut_off and y.inbox[n][0] != y.i:
            return
        req = y.inbox[n] if self.rng.random() < self.dup else y.inbox.pop(n)  # a slow connection delivers it again later
        if y.w:
            y.w.serve(*req)

    def progress(self, up):
        """Each instance, connection and replica that can make progress does."""
        for c in self.conns:
            while c and not c[0][0].cut_off:
                self.deliver(c)
        while self.stream.committed < self.stream.last:
            self.commit()
        self.carry_votes(99)
        acks, self.acks = self.acks, []
        for a in acks:
            self.acknowledge(*a)
        for r in self.stream.replicas:
            if not r.stalled:
                r.advance(self.stream, 99)
        for x in up:
            for _ in range(9):
                if x.cut_off or not x.consume():
                    break
            x.ask_ready()
            for _ in range(len(x.inbox)):
                self.serve(x)
        self.carry_votes(99)
        replies, self.replies = self.replies, []
        for r in replies:
            if self.hold_replies or "slow" in self.more and self.rng.random() < .7:
                self.replies.append(r)
            else:
                self.inst[r[0]].receive_reply(*r[1:])

    def act(self, a, x, ws):
        rng = self.rng
        w = rng.choice(ws) if ws else None
        if a == "cut":
            del x.conn[rng.randint(0, len(x.conn)):]
            x.conn = []
            self.conns.append(x.conn)
            if x.w:
                x.w.stop_writing("connection lost")
        elif a == "crash":
            del x.conn[rng.randint(0, len(x.conn)):]
            x.give_up()
            x.boot()
            self.log(f"{x.i} restarts as {x.start}")
        elif a == "reload":
            self.log(f"{x.i} reloads")
            if not x.lost:
                x.drop()
        elif a == "consume":
            for _ in range(0 if x.cut_off else rng.randint(1, 5)):
                x.consume()
        elif a == "client":
            if x.ready() and x.s.owner is not None:
                self.client(x)
        elif a == "resend":
            if x.open:
                x.send_request(x.open[rng.choice(list(x.open))])
        elif a == "ready":
            for y in self.inst:
                if not y.paused:
                    y.ask_ready()
        elif a == "move_consumer":
            x.move_consumer()
        elif a == "check":
            if x.suspected_loss and rng.random() < .2:
                x.suspected_loss = None                       # its barrier was lost: it begins anew
            x.check()
        elif a == "work":
            x.work()
        elif a == "remove":
            if x.w and "voidtrim" in self.off:
                x.w.sweep()
            x.remove(rng.randint(1, max(1, len(x.removing or []))))
        elif not w:
            return
        elif a == "late":
            if w.w.in_flight:
                w.w.stop_writing("acknowledgement stays away")
        elif a == "unvoted":
            w.w.give_up_votes()
        elif a == "barrier":
            if not w.w.resigning:
                w.w.barrier()
        elif a == "expire":
            if not w.w.resigning:
                if not w.w.quiescing:
                    w.w.expire()
            else:
                w.w.resign()                                  # goes on with it
        elif a == "move":
            w.w.resign()
        elif a == "compact":
            if not w.w.resigning and not w.w.quiescing:
                w.w.compact()

    # --- the end: all comes to rest, one healthy writer, everything is compared

    def drain(self):
        for _ in range(1000):
            moved = len(self.votes_asked) + len(self.votes_sent)
            self.carry_votes(9999)
            for c in self.conns:
                while c:
                    self.deliver(c)
                    moved += 1
            while self.stream.committed < self.stream.last:
                self.commit()
            for r in self.stream.replicas:
                while r.behind(self.stream):
                    r.advance(self.stream, 9999)
            acks, self.acks = self.acks, []
            for a in acks:
                moved += 1
                self.acknowledge(*a)
            for x in self.inst:
                for _ in range(3000):
                    if not x.consume():
                        break
                    moved += 1
                else:
                    self.fail(f"instance {x.i} reloads for ever")
            for x in self.inst:
                if x.w and x.w.quiescing:
                    x.work()
                if x.w and x.w.quiescing:
                    continue
                inbox, x.inbox = x.inbox, []
                for req in inbox:
                    moved += 1
                    if x.w:
                        x.w.serve(*req)
                if x.w and (x.w.round or x.w.joined):
                    x.w.give_up_votes()
                    moved += 1
                if x.w and x.w.reads and not x.w.in_flight:
                    x.w.barrier()
                    moved += 1
            replies, self.replies = self.replies, []
            for r in replies:
                moved += 1
                self.inst[r[0]].receive_reply(*r[1:])
            if not moved:
                late = [x for x in self.inst if x.w and x.w.in_flight]
                if not late:
                    return
                for x in late:
                    x.w.stop_writing("acknowledgement stays away")
        self.fail("it never comes to rest")

    def writer(self):
        return next((x for x in self.inst if x.w and x.w.ep == self.truth.ep and not x.lost), None)

    def run(self, steps):
        if self.profile in ARRANGED:
            ARRANGED[self.profile](self)
        for _ in range(steps * self.more.get("long", 1)):
            self.step()
        for x in self.inst:
            x.paused = x.cut_off = False
            if x.w:
                x.w.resigning = 0
        self.chaos, self.at_rest = 0, True
        for _ in range(8):
            self.drain()
            if not self.accepting:
                break
            self.accepting.takeover()
        else:
            self.fail(f"instance {self.accepting.i} does not get to accept the loss")
        for n in range(8):
            self.drain()
            w = self.writer()
            if not w:
                self.inst[n % len(self.inst)].takeover()
                continue
            w.w.barrier()
            self.drain()
            for x in self.inst:
                x.ask_ready()
            self.drain()
            if self.writer() and all(x.ready() or x.lost for x in self.inst):
                break
        w = self.writer()
        if self.damage:
            return self.end_damaged(w)
        if not w:
            self.fail("no instance can become the writer")
        self.end()

    def end(self):
        for x in self.inst:
            if not x.ready():
                self.fail(f"instance {x.i} never becomes ready")
            if x.s.idx != self.truth.idx:
                self.fail(f"instance {x.i} ends at index {x.s.idx}, the log at {self.truth.idx}")
        reported, wrong, T = self.fresh_load()
        if reported or wrong:
            self.fail(f"a fresh load: {reported}, {wrong}")
        msgs = self.stream.msgs                               # now removals by another program, above T
        for q in [q for q, m in msgs.items() if m.uid in self.valid and m.idx > T]:
            m = msgs.pop(q)
            reported, wrong, _ = self.fresh_load()
            if reported is None and (wrong and m.kind != "t" or not self.is_replaced(m)):
                self.fail(f"removal of {q} {m} by another program goes unnoticed (T {T})")
            msgs[q] = m

    def end_damaged(self, w):
        """Another program removed messages while all ran. A fresh load reports it or lacks nothing, and so do the instances."""
        reported, wrong, T = self.fresh_load()
        msgs = self.stream.msgs
        lacking = [m for m in self.damage if m.uid in self.valid and m.idx > T and msgs.get(m.seq) is not m]
        lacking = [m for m in lacking if not self.is_replaced(m)]
        if any(m.kind == "t" and self.is_replaced(m) for m in self.damage):
            wrong = None
        if reported is None and (wrong or lacking):
            self.fail(f"a fresh load reports nothing: {wrong}, lacking {lacking}")
        for _ in range(3):                                    # a check may depose a writer, which then has to read on
            for x in self.inst:
                x.suspected_loss = None
                x.check()
            self.drain()
        for x in self.inst:
            if x.w and x.w.ep != self.truth.ep:
                self.fail(f"instance {x.i} still takes itself for the writer of epoch {x.w.ep} in epoch {self.truth.ep}")
        if not w or not w.w:
            return
        for x in self.inst:
            if x.ready() and any(x.seqs.get(m.idx) == m.seq and m.idx > x.s.trimmed for m in lacking):
                self.fail(f"instance {x.i} does not notice that {lacking} are gone")
            above = [m for m in self.damage if m.kind == "w" and m.rev > x.garbage.floor and self.stream.msgs.get(m.seq) is not m]
            if x.ready() and any(x.seqs.get(m.idx) == m.seq for m in above):
                self.fail(f"instance {x.i} does not notice that {above} above the floor are gone")
            if x.ready() and x.s.idx != self.truth.idx:
                self.fail(f"instance {x.i} is ready at index {x.s.idx}, the log at {self.truth.idx}")

    def is_replaced(self, m):
        """True if a void message now takes the place of this one: a copy, another candidate's epoch record, or another trim record.

        The rule does not distinguish a program's copy of an older trim record from the last one, where that one is gone.
        """
        void = [v for v in self.stream.msgs.values() if v.uid not in self.valid]
        if m.kind == "t" and any(v.kind == "t" for v in void):
            return True
        void = [v for v in void if (v.kind, v.ep, v.idx) == (m.kind, m.ep, m.idx)]
        return any(v.no == m.no or m.kind == "e" for v in void)

    def fresh_load(self):
        """A load from the start: its own complaint, the difference of its state from the truth, and its T."""
        msgs, void = self.stream.msgs, set()
        while True:
            T, tpos = self.last_trim(void)
            s = state_before(msgs, self.stream.committed, void, self.fault, self.off)
            for q in sorted(msgs):
                s.apply(q, msgs[q])
            if s.trim_reached or s.suspect or not tpos or "passover" in self.off:
                break
            void.add(tpos)
        reported = None
        if self.stream.last and self.stream.last not in msgs:
            reported = "the last message is missing"
        elif not s.trim_reached or s.suspect:
            reported = f"loss at index {s.idx + 1}"
        elif s.digest_differs:
            reported = "another digest than the trim record's"
        wrong = None
        if s.idx != self.truth.idx or s.digest() != self.truth.digest():
            wrong = f"state at index {s.idx} {s.kv} rev {s.rev}, valid {self.truth.idx} {self.truth.kv} rev {self.truth.rev}"
        return reported, wrong, T

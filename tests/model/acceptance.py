"""A loss that an operator accepts, and the checks of it: the part of the world that knows the log as it was before."""

from leases import LeaseChecks
from log import Beginnings, State, last_loss


class Acceptance:
    """Part of the schedule."""

    def operator(self):
        """Stops all instances, and starts one with --accept-data-loss, after something was lost that must be there.

        The loss is over by then: each replica shows it.
        """
        if self.accepting or not self.damage or not (self.fresh_load()[0] or any(x.lost for x in self.inst)):
            return
        s, took = self.remaining_log(self.stream.last)
        garbage = [no for no, *_ in s.beginnings.writers.values()] + [v.no for v in took.values() if v.uid not in self.valid]
        if "garbage" in garbage:
            return                                            # a forged nonce cannot be distinguished from one whose record is lost
        self.accepting = self.rng.choice(self.inst)
        self.log(f"{self.accepting.i} is to accept the loss")
        for r in self.stream.replicas:
            while r.behind(self.stream):
                r.advance(self.stream, 9999)
        for x in self.inst:
            del x.conn[self.rng.randint(0, len(x.conn)):]
            x.give_up()
            x.paused, x.cut_off, x.down = False, False, x is not self.accepting
            x.boot()

    def remaining_log(self, end):
        """The state of a reader that takes what is there, and the records that it takes."""
        msgs, beginnings = {q: m for q, m in self.stream.msgs.items() if q <= end}, Beginnings(self.off)
        while True:
            s, took = State(off=self.off, loss=last_loss(msgs, end), beginnings=beginnings), {}
            for q in sorted(msgs):
                took.update((v.uid, v) for v in s.apply(q, msgs[q]))
            if not s.refuted:
                return s, took

    def loss_accepted(self, q, r):
        """The epoch record of the instance that accepts it. What that one has read is the truth from here on.

        Each record that is left must be among it, and nothing else. A void message may count where the epoch record is lost
        that makes it void, or where a torn batch begins behind the loss.
        """
        new, took = self.remaining_log(q)
        if r.uid not in took:
            self.truth.pos = q
            return []
        del took[r.uid]
        lost = [m for m in self.damage if m.uid in self.valid]
        epoch_lost = any(m.kind == "e" for m in lost)
        void = any(m.uid not in self.valid and m.kind in "wgvfte" for m in self.stream.msgs.values())
        if not epoch_lost and not self.foreign_messages and not void:
            twins, torn = {(m.ep, m.no, m.idx) for m in lost}, {m.op for m in lost if m.cnt > 1}
            for v in took.values():
                if v.uid not in self.valid and (v.ep, v.no, v.idx) not in twins and v.cnt == 1:
                    self.fail(f"the accepted log holds {v}, which was void")
            for m in self.stream.msgs.values():
                if m.uid in self.valid and m.uid not in took and (m.cnt == 1 or m.op not in torn):
                    self.fail(f"the accepted log lacks {m}, which is there")
        self.check_accepted(took, lost)
        self.valid = {uid: v.idx for uid, v in took.items()}
        new.settle()
        self.given_up.update((m.seq, m) for m in self.damage)
        self.truth, self.damage = new, []
        self.orphans = {(k, v[0]) for k, v in new.kv.items() if v[3] not in new.leases}
        self.hist, self.snap, self.leases_at = {}, {}, {}
        self.happened, self.client_of, self.outcomes, self.seen = {}, {}, {}, 0
        self.lease_checks, answers = LeaseChecks(self), self.lease_checks.answers
        self.lease_checks.answers = answers
        self.accepting.born = 0
        return [r]

    def check_accepted(self, took, lost):
        """No answered write that is left may be given up. No void record may count that a message of a later writer refutes.

        A writer's first message behind its epoch record proves it.
        """
        left, torn = self.stream.msgs.values(), {m.op for m in lost if m.cnt > 1}
        for m in left:
            answered = m.op and self.outcomes.get(self.client_of.get(m.op)) == "ok"
            if answered and m.uid in self.valid and m.uid not in took and m.op not in torn:
                self.fail(f"the accepted log gives {m} up, which was answered and is there")
        writers = {(m.ep, m.no) for m in left if m.kind not in "ex"}
        starts = [m for m in left if m.kind == "e" and m.uid in self.valid and (m.ep, m.no) in writers]
        twins, before = {(m.ep, m.no, m.idx) for m in lost}, None
        for v in sorted(took.values(), key=lambda v: v.seq):
            void = v.uid not in self.valid and (v.ep, v.no, v.idx) not in twins
            if void and any(v.ep < e.ep and v.idx >= e.idx for e in starts):
                self.fail(f"the accepted log holds {v}, which was void")
            if void and v.cnt == 1 and before and (before.ep, before.no) == (v.ep, v.no) and before.uid in self.valid:
                if all(q in self.stream.msgs for q in range(before.seq, v.seq)):
                    self.fail(f"the accepted log holds {v}, which was void, and nothing is lost before it")
            before = v

"""Leases: the writer's deadlines, and the checks of them.

One true time runs for all, because every process reads a clock that counts suspended time too; a paused process sleeps
through it. The end of a lease stands in the writer's memory alone, keepalives spend no record.
"""


class Lessor:
    """One writer's deadlines, from its own epoch record until it stops writing."""

    def __init__(self, inst, state, sent):
        self.inst, self.sim, self.timeout, self.sent, self.ends = inst, inst.sim, state.timeout, sent, {}
        sim = self.sim
        # A writer of the past may still answer keepalives: an election timeout of its own after it sent the
        # last thing that proved valid. Each lease gets that time on top of its full TTL. Writers of all
        # epochs count, not only of the last one.
        grace = state.longest
        if "lastgrace" in sim.off:
            grace = max(state.before, state.timeout)
        if "grace" in sim.off:
            grace = 0
        for lease, (ttl, _) in state.leases.items():
            self.ends[lease] = inst.clock() + ttl + grace if "newepoch" not in sim.off else inst.clock()

    def proved(self, recs, sent):
        """Something this writer sent has proved valid: it was the writer when it sent it."""
        self.sent = max(self.sent, self.inst.clock() if self.sim.fault == "ackclock" else sent)
        for r in recs:
            if r.kind == "g":
                self.ends[r.lease] = self.inst.clock() + r.ttl
            elif r.kind == "v":
                self.ends.pop(r.lease, None)

    def fresh(self):
        return self.sim.fault == "stalekeep" or self.inst.clock() - self.sent <= self.timeout

    def keep(self, lease, grant):
        self.ends[lease] = max(self.ends.get(lease, 0), self.inst.clock() + grant[0])
        self.sim.lease_checks.kept((lease, grant[1]), grant[0])

    def ending(self, lease):
        """The end is planned. The deadline goes now, or else it would end the next lease of that id, granted right behind."""
        if "regrant" not in self.sim.off:
            self.ends.pop(lease, None)

    def due(self, plan):
        return [lease for lease, end in sorted(self.ends.items()) if end <= self.inst.clock() and lease in plan.leases]


class LeaseChecks:
    """No lease ends before its TTL has passed since its last answered keepalive; none is kept alive after its end."""

    def __init__(self, sim):
        self.sim, self.until, self.ended, self.answers = sim, {}, {}, 0

    def kept(self, lease, ttl):
        self.answers += 1
        if lease in self.ended:
            self.sim.fail(f"keepalive of {lease[0]} answered at {self.sim.now}, it ended at {self.ended[lease]}")
        self.until[lease] = max(self.until.get(lease, 0), self.sim.now + ttl)

    def record(self, r):
        """A valid record of the log, when it commits. A client's own revoke may come at any time."""
        if r.kind == "g":
            self.until[r.lease, r.idx] = self.sim.now + r.ttl
        elif r.kind == "v" and r.decided:
            lease = r.lease, r.granted
            if r.decided < self.until.get(lease, 0):
                self.sim.fail(f"{r.lease} expires at {r.decided}, promised until {self.until[lease]}")
            self.ended[lease] = self.sim.now

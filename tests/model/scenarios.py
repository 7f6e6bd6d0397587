"""Beginnings of schedules that chance alone seldom finds. Each is arranged, with random choices in it; random steps follow.

A scenario whose arrangement does not come about gives up, and the schedule is like any other.
"""

from instance import Instance


def until(sim, condition, moments=12):
    for _ in range(moments):
        if condition():
            return True
        sim.tick(1)
        sim.progress([x for x in sim.inst if not x.paused])
    return condition()


def make_writer(sim, x):
    """Makes x the writer and lets all reachable instances learn it."""
    for _ in range(4):
        if not x.w:
            x.takeover()
        if until(sim, lambda: x.w and all(y.ready() and y.s.owner == x.i for y in sim.inst if not y.cut_off and not y.paused)):
            return True
    return False


def send_call(sim, x, kind, **kw):
    sim.requests += 1
    o = dict(dict(n=sim.requests, kind=kind, low=sim.seen, lease=None, keys=["a"], dead=False, cmp=("none", 0)), **kw)
    x.ask(o)
    return o


def answered(sim, o):
    return until(sim, lambda: o["n"] in sim.outcomes)


def lease_of(sim, x):
    lease = f"L{(sim.requests + 1) * len(sim.inst) + x.i}"
    return lease if answered(sim, send_call(sim, x, "g", lease=lease, ttl=20)) and lease in x.s.leases else None


def contest(sim, old, new, lease, ticks):
    """The writer of the past is asked for keepalives, the writer of now expires."""
    for _ in range(ticks):
        sim.tick(1)
        choice = sim.rng.random()
        if choice < .15 and old.w and lease in old.s.leases:
            send_call(sim, old, "k", lease=lease)
            sim.serve(old)
        elif choice < .5 and new.w:
            new.w.expire()
        elif choice < .6:
            sim.progress([x for x in sim.inst if not x.paused])


def compact_and_trim(sim, x, removes=True):
    """The writer x compacts; the removals that follow are seen by every replica that is not stalled."""
    if x.w:
        x.w.compact()
    for _ in range(20):
        until(sim, lambda: not x.w or not x.w.in_flight, 4)
        x.work()
        if x.removing and removes:
            x.remove(99)
        elif x.removing:
            break
    for r in sim.stream.replicas:
        if not r.stalled:
            r.advance(sim.stream, 99)


def successions(sim):
    """Two takeovers in a row, while the first writer, with a long election timeout, is cut off and knows of none."""
    if len(sim.inst) < 3:
        return
    a, b, c = sim.inst[:3]
    a.timeout, b.timeout, c.timeout = 200, 20, 20
    if not make_writer(sim, a) or not (lease := lease_of(sim, a)) or not a.w:
        return
    a.w.barrier()
    until(sim, lambda: not a.w or not a.w.in_flight)
    a.cut_off = True
    if make_writer(sim, b) and (sim.rng.random() < .3 or make_writer(sim, c)):
        contest(sim, a, c if c.w else b, lease, 150)


def sleep(sim):
    """The writer's process is suspended; it wakes up deposed, cut off, with clients that keep their leases alive."""
    a, b = sim.inst[:2]
    if not make_writer(sim, a) or not (lease := lease_of(sim, a)) or not a.w:
        return
    a.w.barrier()
    until(sim, lambda: not a.w or not a.w.in_flight)
    a.paused = True
    if not make_writer(sim, b):
        return
    sim.tick(sim.rng.randint(100, 250))
    if b.w:
        b.w.expire()
        until(sim, lambda: not b.w or not b.w.in_flight, 3)
    a.paused, a.cut_off = False, True
    contest(sim, a, b, lease, 30)


def late_ack(sim):
    """The writer's barrier is stored, then it is cut off and deposed; the acknowledgement comes long after."""
    a, b = sim.inst[:2]
    for x in sim.inst:
        x.timeout = 20
    if not make_writer(sim, a) or not (lease := lease_of(sim, a)) or not a.w:
        return
    if sim.rng.random() < .5:
        sim.tick(sim.rng.randint(10, 25))
        send_call(sim, a, "k", lease=lease)
        sim.serve(a)
    if not a.w:
        return
    a.w.barrier()
    while a.conn:
        sim.deliver(a.conn)
    while sim.stream.committed < sim.stream.last:
        sim.commit()
    a.cut_off = True
    if not make_writer(sim, b):
        return
    sim.tick(sim.rng.randint(10, 40))
    late = [x for x in sim.acks if x[0] is a]
    sim.acks = [x for x in sim.acks if x[0] is not a]
    for who, start, uid, seq in late:
        if a.w:
            a.w.ack(uid, seq)
    contest(sim, a, b, lease, 60)


def late_reply(sim):
    """A refusal is on its way while the asker learns of the next epoch and sends its request again."""
    a, b = sim.inst[:2]
    if not make_writer(sim, a):
        return
    sim.hold_replies = True
    send_call(sim, b, "w", cmp=("present", True))
    until(sim, lambda: False, 3)
    send_call(sim, a, "w")
    until(sim, lambda: False, 3)
    make_writer(sim, b)
    until(sim, lambda: False, 2)
    sim.hold_replies = False
    until(sim, lambda: False, 2)


def twice(sim):
    """A slow connection brings a refused request again, when its compare would hold."""
    a, b = sim.inst[:2]
    if not make_writer(sim, a):
        return
    o = send_call(sim, b, "w", cmp=("present", True))
    late = list(a.inbox)
    other = send_call(sim, b, "r") if sim.rng.random() < .5 else None
    if not answered(sim, o) or not answered(sim, send_call(sim, a, "w")) or not a.w:
        return
    if other and sim.rng.random() < .5:
        answered(sim, other)
    for r in late:
        a.inbox.append(r)
    until(sim, lambda: False, 3)


def behind(sim):
    """A follower looks at the removals of one trim, and reads the barrier that decides while the next trim removes."""
    a, b = sim.inst[:2]
    if not make_writer(sim, a):
        return
    replicas = sim.stream.replicas
    b.rep, a.rep = 0, 1
    for _ in range(3):
        answered(sim, send_call(sim, a, "w"))
    until(sim, lambda: b.s.idx == sim.truth.idx)
    replicas[0].stalled = True
    compact_and_trim(sim, a)
    for _ in range(8):
        b.check()
    until(sim, lambda: b.suspected_loss and b.suspected_loss["need"], 4)
    for _ in range(2):
        answered(sim, send_call(sim, a, "w"))
    compact_and_trim(sim, a)
    replicas[0].stalled = False
    for _ in range(40):
        replicas[0].advance(sim.stream, 1)
        b.consume()


def gap(sim):
    """A foreign message takes a sequence, so that the writer's next record is refused and the one after it stored, void."""
    a, b = sim.inst[:2]
    if not make_writer(sim, a) or not answered(sim, send_call(sim, a, "w")) or not a.w:
        return
    for _ in range(3):
        send_call(sim, a, "w", keys=[sim.rng.choice("abc")])
        sim.serve(a)
    if sim.rng.random() < .5 and a.conn:
        sim.deliver(a.conn)
    sim.foreign_message()
    while a.conn:
        sim.deliver(a.conn)
    if make_writer(sim, b):
        for _ in range(sim.rng.randint(1, 4)):
            answered(sim, send_call(sim, b, "w"))
        compact_and_trim(sim, b, removes=False)
        x = sim.rng.choice(sim.inst)
        x.drop()
        until(sim, x.ready, 5)
        compact_and_trim(sim, b)
        x.drop()
        until(sim, x.ready, 5)


def halfway(sim):
    """A load has read values that the removals of its trim take away behind it, and their deletes before it."""
    a, b = sim.inst[:2]
    if not make_writer(sim, a):
        return
    for n in range(sim.rng.randint(2, 6)):
        answered(sim, send_call(sim, a, "w", keys=[sim.rng.choice("ab")], dead=sim.rng.random() < .5))
    compact_and_trim(sim, a, removes=False)
    b.drop()
    for _ in range(sim.rng.randint(1, 6)):
        b.consume()
    a.remove(99)
    until(sim, b.ready, 6)


def deposed(sim):
    """A writer sleeps while another takes over, and another program removes the epoch record before the writer has read it."""
    a, b = sim.inst[:2]
    if not make_writer(sim, a):
        return
    a.paused = True
    if not make_writer(sim, b):
        return
    q = max(q for q, m in sim.stream.msgs.items() if m.kind == "e")
    if q == sim.stream.last and b.w:
        b.w.barrier()
    sim.stream.replicas[a.rep].wipe()                         # a's consumer has it still to bring
    sim.foreign_removal(q)
    if sim.rng.random() < .5:
        sim.more = dict(long=0)                               # and nothing happens that would show it
        a.inbox.clear()
    until(sim, lambda: False, 2)


def loading(sim):
    """A trim record comes while an instance loads, and the removals that it permits when it has loaded."""
    a, b = sim.inst[:2]
    if not make_writer(sim, a):
        return
    for n in range(sim.rng.randint(2, 6)):
        answered(sim, send_call(sim, a, "w", keys=[sim.rng.choice("ab")], dead=sim.rng.random() < .3))
    b.drop()
    for _ in range(sim.rng.randint(0, 6)):
        b.consume()
    b.cut_off = True
    compact_and_trim(sim, a, removes=False)
    b.cut_off = False
    until(sim, b.ready, 6)
    a.remove(sim.rng.randint(1, 9))
    for r in sim.stream.replicas:
        r.advance(sim.stream, 99)
    b.check()
    until(sim, lambda: False, 3)


def unfinished(sim):
    """Two writers in a row stop in the middle of their removals; a third one goes on with those of both."""
    rng, (a, b), c = sim.rng, sim.inst[:2], sim.inst[-1]
    for x in (a, b):
        if not make_writer(sim, x):
            return
        for _ in range(rng.randint(2, 5)):
            answered(sim, send_call(sim, x, "w", keys=[rng.choice("ab")], dead=rng.random() < .6))
        if x.w:
            x.w.compact()
        until(sim, lambda: not x.w or all(y.s.floor == x.w.plan.floor for y in sim.inst), 4)
        for y in sim.inst:
            for _ in range(9 if y is not x else 0):
                y.work()
        compact_and_trim(sim, x, removes=False)
        if x.removing:
            x.remove(rng.choice([0, 0, 1, 3]))
        until(sim, lambda: all(y.s.idx == sim.truth.idx for y in sim.inst), 4)
        x.give_up()
        x.boot()
        until(sim, x.ready, 4)
    if make_writer(sim, c):
        for _ in range(rng.randint(1, 4)):
            answered(sim, send_call(sim, c, "w", keys=[rng.choice("ab")], dead=rng.random() < .6))
        compact_and_trim(sim, c)
        rng.choice(sim.inst).drop()


def torn(sim):
    """A writer ends in the middle of a batch; the next one has removed a part of what is stored of it when instances load."""
    rng, (a, b) = sim.rng, sim.inst[:2]
    if not make_writer(sim, a):
        return
    for _ in range(rng.randint(0, 2)):
        answered(sim, send_call(sim, a, "w", keys=[rng.choice("ab")]))
    if not until(sim, lambda: a.w and not a.w.in_flight):
        return
    a.inbox.clear()
    send_call(sim, a, "w", keys=rng.sample("abc", 3))
    sim.serve(a)
    for _ in range(rng.choice([1, 2, 2])):
        if a.conn:
            sim.deliver(a.conn)
    a.conn.clear()                                            # the rest of the batch is never stored
    a.give_up()
    a.boot()
    if not make_writer(sim, b):
        return
    for _ in range(rng.randint(2, 5)):
        answered(sim, send_call(sim, b, "w", keys=[rng.choice("ab")], dead=rng.random() < .3))
    compact_and_trim(sim, b, removes=False)
    b.remove(rng.randint(1, 3))
    for r in sim.stream.replicas:
        r.advance(sim.stream, 99)
    for x in rng.choice([sim.inst, [rng.choice(sim.inst)]]):
        x.drop()
    until(sim, lambda: all(x.ready() for x in sim.inst), 5)


def votes(sim):
    """A writer and a voter on a replica that lags do not know of the next writer. One of the two has promised to vote for it."""
    rng, (a, b), sim.votes = sim.rng, sim.inst[:2], True
    if len(sim.inst) == 2:
        sim.inst.append(Instance(sim, 2))
    c = sim.inst[-1]
    sim.set_weights()
    if len(sim.inst) != 3 or not make_writer(sim, a) or not answered(sim, send_call(sim, a, "w")):
        return
    until(sim, lambda: all(x.s.idx == sim.truth.idx for x in sim.inst))
    a.rep, b.rep, c.rep = 0, 1, 0
    sim.stream.replicas[0].stalled = True
    if rng.random() < .5:
        answered(sim, send_call(sim, c, "r"))
    if rng.random() < .5:
        send_call(sim, a, "r")
        sim.serve(a)
        while sim.votes_asked:
            asker, voter, *rest = sim.votes_asked.pop()
            sim.inst[voter].asked_to_vote(asker, *rest)
    late, sim.votes_sent = sim.votes_sent, []
    b.takeover()
    promising = rng.choice([a, c])
    sim.votes_asked = [question for question in sim.votes_asked if question[1] == promising.i]
    if not until(sim, lambda: b.w) or not answered(sim, send_call(sim, b, "w")):
        return
    if rng.random() < .3:
        c.give_up()
        c.boot()
        c.rep = 0
    sim.votes_sent += late if rng.random() < .5 else []
    for x in (a, c):
        if x.ready() and x.s.owner is not None:
            send_call(sim, x, "r")
            sim.serve(a)
    until(sim, lambda: False, 4)


SCENARIOS = dict(votes=votes, successions=successions, sleep=sleep, late_ack=late_ack, late_reply=late_reply, twice=twice, behind=behind, gap=gap,
              halfway=halfway, deposed=deposed, loading=loading, unfinished=unfinished, torn=torn)

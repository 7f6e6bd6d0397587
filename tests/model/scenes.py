"""Beginnings of schedules that chance alone seldom finds. Each is arranged by hand and full of dice; random steps follow.

A scene whose arrangement does not come about gives up, and the schedule is like any other.
"""


def until(sim, condition, moments=12):
    for _ in range(moments):
        if condition():
            return True
        sim.tick(1)
        sim.calm([x for x in sim.inst if not x.paused])
    return condition()


def leads(sim, x):
    """Makes x the writer and lets all reachable instances learn it."""
    for _ in range(4):
        if not x.w:
            x.takeover()
        if until(sim, lambda: x.w and all(y.ready() and y.s.owner == x.i for y in sim.inst if not y.cut_off and not y.paused)):
            return True
    return False


def asks(sim, x, kind, **kw):
    sim.nop += 1
    o = dict(dict(n=sim.nop, kind=kind, low=sim.seen, lease=None, keys=["a"], dead=False, cmp=("none", 0)), **kw)
    x.ask(o)
    return o


def answered(sim, o):
    return until(sim, lambda: o["n"] in sim.told)


def lease_of(sim, x):
    lease = f"L{(sim.nop + 1) * len(sim.inst) + x.i}"
    return lease if answered(sim, asks(sim, x, "g", lease=lease, ttl=20)) and lease in x.s.leases else None


def contest(sim, old, new, lease, ticks):
    """The writer of the past is asked for keepalives, the writer of now expires."""
    for _ in range(ticks):
        sim.tick(1)
        dice = sim.rng.random()
        if dice < .15 and old.w and lease in old.s.leases:
            asks(sim, old, "k", lease=lease)
            sim.serve(old)
        elif dice < .5 and new.w:
            new.w.expire()
        elif dice < .6:
            sim.calm([x for x in sim.inst if not x.paused])


def trims(sim, x, removes=True):
    """The writer x compacts; the removals that follow are seen by every replica that is not stalled."""
    if x.w:
        x.w.compact()
    for _ in range(20):
        until(sim, lambda: not x.w or not x.w.fly, 4)
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
    if not leads(sim, a) or not (lease := lease_of(sim, a)) or not a.w:
        return
    a.w.barrier()
    until(sim, lambda: not a.w or not a.w.fly)
    a.cut_off = True
    if leads(sim, b) and (sim.rng.random() < .3 or leads(sim, c)):
        contest(sim, a, c if c.w else b, lease, 150)


def sleep(sim):
    """The writer's process is suspended; it wakes up deposed, cut off, with clients that keep their leases alive."""
    a, b = sim.inst[:2]
    if not leads(sim, a) or not (lease := lease_of(sim, a)) or not a.w:
        return
    a.w.barrier()
    until(sim, lambda: not a.w or not a.w.fly)
    a.paused = True
    if not leads(sim, b):
        return
    sim.tick(sim.rng.randint(100, 250))
    if b.w:
        b.w.expire()
        until(sim, lambda: not b.w or not b.w.fly, 3)
    a.paused, a.cut_off = False, True
    contest(sim, a, b, lease, 30)


def late_ack(sim):
    """The writer's barrier is stored, then it is cut off and deposed; the acknowledgement comes long after."""
    a, b = sim.inst[:2]
    for x in sim.inst:
        x.timeout = 20
    if not leads(sim, a) or not (lease := lease_of(sim, a)) or not a.w:
        return
    if sim.rng.random() < .5:
        sim.tick(sim.rng.randint(10, 25))
        asks(sim, a, "k", lease=lease)
        sim.serve(a)
    if not a.w:
        return
    a.w.barrier()
    while a.conn:
        sim.deliver(a.conn)
    while sim.stream.committed < sim.stream.last:
        sim.commit()
    a.cut_off = True
    if not leads(sim, b):
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
    if not leads(sim, a):
        return
    sim.hold_replies = True
    asks(sim, b, "w", cmp=("present", True))
    until(sim, lambda: False, 3)
    asks(sim, a, "w")
    until(sim, lambda: False, 3)
    leads(sim, b)
    until(sim, lambda: False, 2)
    sim.hold_replies = False
    until(sim, lambda: False, 2)


def twice(sim):
    """A slow connection brings a refused request again, when its compare would hold."""
    a, b = sim.inst[:2]
    if not leads(sim, a):
        return
    o = asks(sim, b, "w", cmp=("present", True))
    late = list(a.inbox)
    other = asks(sim, b, "r") if sim.rng.random() < .5 else None
    if not answered(sim, o) or not answered(sim, asks(sim, a, "w")) or not a.w:
        return
    if other and sim.rng.random() < .5:
        answered(sim, other)
    for r in late:
        a.inbox.append(r)
    until(sim, lambda: False, 3)


def behind(sim):
    """A follower looks at the removals of one trim, and meets the barrier that decides while the next trim removes."""
    a, b = sim.inst[:2]
    if not leads(sim, a):
        return
    replicas = sim.stream.replicas
    b.rep, a.rep = 0, 1
    for _ in range(3):
        answered(sim, asks(sim, a, "w"))
    until(sim, lambda: b.s.idx == sim.truth.idx)
    replicas[0].stalled = True
    trims(sim, a)
    for _ in range(8):
        b.check()
    until(sim, lambda: b.doubt and b.doubt["need"], 4)
    for _ in range(2):
        answered(sim, asks(sim, a, "w"))
    trims(sim, a)
    replicas[0].stalled = False
    for _ in range(40):
        replicas[0].advance(sim.stream, 1)
        b.consume()


def gap(sim):
    """A foreign message takes a sequence, so that the writer's next record is refused and the one after it stored, void."""
    a, b = sim.inst[:2]
    if not leads(sim, a) or not answered(sim, asks(sim, a, "w")) or not a.w:
        return
    for _ in range(3):
        asks(sim, a, "w", keys=[sim.rng.choice("abc")])
        sim.serve(a)
    if sim.rng.random() < .5 and a.conn:
        sim.deliver(a.conn)
    sim.foreign_message()
    while a.conn:
        sim.deliver(a.conn)
    if leads(sim, b):
        for _ in range(sim.rng.randint(1, 4)):
            answered(sim, asks(sim, b, "w"))
        trims(sim, b, removes=False)
        x = sim.rng.choice(sim.inst)
        x.drop()
        until(sim, x.ready, 5)
        trims(sim, b)
        x.drop()
        until(sim, x.ready, 5)


def halfway(sim):
    """A load has read values that the removals of its trim take away behind it, and their deletes before it."""
    a, b = sim.inst[:2]
    if not leads(sim, a):
        return
    for n in range(sim.rng.randint(2, 6)):
        answered(sim, asks(sim, a, "w", keys=[sim.rng.choice("ab")], dead=sim.rng.random() < .5))
    trims(sim, a, removes=False)
    b.drop()
    for _ in range(sim.rng.randint(1, 6)):
        b.consume()
    a.remove(99)
    until(sim, b.ready, 6)


def deposed(sim):
    """A writer sleeps while another takes over, and a foreign hand removes the epoch record before it could see it."""
    a, b = sim.inst[:2]
    if not leads(sim, a):
        return
    a.paused = True
    if not leads(sim, b):
        return
    q = max(q for q, m in sim.stream.msgs.items() if m.kind == "e")
    if q == sim.stream.last and b.w:
        b.w.barrier()
    sim.stream.replicas[a.rep].wipe()                         # a's consumer has it still to bring
    sim.foreign_removal(q)
    if sim.rng.random() < .5:
        sim.more = dict(long=0)                               # and nothing happens that would tell it
        a.inbox.clear()
    until(sim, lambda: False, 2)


def loading(sim):
    """A trim record comes while an instance loads, and the removals that it permits when it has loaded."""
    a, b = sim.inst[:2]
    if not leads(sim, a):
        return
    for n in range(sim.rng.randint(2, 6)):
        answered(sim, asks(sim, a, "w", keys=[sim.rng.choice("ab")], dead=sim.rng.random() < .3))
    b.drop()
    for _ in range(sim.rng.randint(0, 6)):
        b.consume()
    b.cut_off = True
    trims(sim, a, removes=False)
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
        if not leads(sim, x):
            return
        for _ in range(rng.randint(2, 5)):
            answered(sim, asks(sim, x, "w", keys=[rng.choice("ab")], dead=rng.random() < .6))
        if x.w:
            x.w.compact()
        until(sim, lambda: not x.w or all(y.s.floor == x.w.plan.floor for y in sim.inst), 4)
        for y in sim.inst:
            for _ in range(9 if y is not x else 0):
                y.work()
        trims(sim, x, removes=False)
        if x.removing:
            x.remove(rng.choice([0, 0, 1, 3]))
        until(sim, lambda: all(y.s.idx == sim.truth.idx for y in sim.inst), 4)
        x.give_up()
        x.boot()
        until(sim, x.ready, 4)
    if leads(sim, c):
        for _ in range(rng.randint(1, 4)):
            answered(sim, asks(sim, c, "w", keys=[rng.choice("ab")], dead=rng.random() < .6))
        trims(sim, c)
        rng.choice(sim.inst).drop()


SCENES = dict(successions=successions, sleep=sleep, late_ack=late_ack, late_reply=late_reply, twice=twice, behind=behind, gap=gap,
              halfway=halfway, deposed=deposed, loading=loading, unfinished=unfinished)

"""Beginnings of schedules, as in scenarios, in which something is lost and the loss is accepted."""

from scenarios import answered, send_call, lease_of, make_writer, compact_and_trim, until


def accepted(sim):
    """Something is lost above the floor, and the loss is accepted. The instances that start afterwards must agree on the rest."""
    rng, (a, b) = sim.rng, sim.inst[:2]
    if not make_writer(sim, a):
        return
    for n in range(rng.randint(2, 5)):
        answered(sim, send_call(sim, a, "w", keys=[rng.choice("ab")], dead=rng.random() < .3))
        if n == 1:
            compact_and_trim(sim, a)
    other = rng.random()
    if rng.random() < .7 and (lease := lease_of(sim, a)):     # above the floor, and not needed any more
        answered(sim, send_call(sim, a, "v", lease=lease))
    if other < .3:                                            # a foreign message, and what stood before it goes
        sim.foreign_message()
    if not make_writer(sim, b):
        return
    for _ in range(rng.randint(1, 4)):
        answered(sim, send_call(sim, b, "w", keys=[rng.choice("ab")]))
    stream = sim.stream
    foreign = [q for q, m in stream.msgs.items() if m.inst == "foreign" and q - 1 in stream.msgs and q <= stream.committed]
    epochs = [q for q, m in stream.msgs.items() if m.kind == "e" and m.ep == sim.truth.ep and q <= stream.committed]
    some = foreign and [foreign[0] - 1] or other < .7 and epochs or [None]
    sim.foreign_removal(some[0])
    sim.operator()
    until(sim, lambda: not sim.accepting or sim.accepting.w or sim.accepting.takeover(), 20)
    until(sim, lambda: not sim.accepting, 6)
    if sim.accepting:
        return
    until(sim, lambda: all(x.ready() for x in sim.inst), 6)
    for x in sim.inst:
        x.check()
    until(sim, lambda: False, 3)
    if make_writer(sim, rng.choice(sim.inst)):
        w = sim.writer()
        for _ in range(rng.randint(1, 4)):
            answered(sim, send_call(sim, w, "w", keys=[rng.choice("ab")]))
        if w.w and rng.random() < .7:
            compact_and_trim(sim, w)
            x = rng.choice(sim.inst)
            x.drop()
            until(sim, x.ready, 6)
            x.check()
            until(sim, lambda: False, 3)
    above = [q for q, m in stream.msgs.items() if m.kind == "w" and m.uid in sim.valid and m.rev > sim.truth.floor]
    if above and rng.random() < .4:                           # a second loss, above the floor, while all runs
        until(sim, lambda: all(x.ready() for x in sim.inst), 6)
        sim.foreign_removal(rng.choice(above))
        sim.more = dict(long=0)


def reclaimed(sim):
    """A deposed writer's records, floors among them, are void. One of them is lost, and the loss is accepted."""
    rng, (a, b) = sim.rng, sim.inst[:2]
    if not make_writer(sim, a):
        return
    for _ in range(rng.randint(1, 3)):
        answered(sim, send_call(sim, a, "w", keys=[rng.choice("ab")]))
    if not a.w:
        return
    sim.foreign_message()
    for _ in range(rng.randint(3, 6)):
        send_call(sim, a, "w", keys=rng.sample("abc", rng.randint(1, 3)))
        sim.serve(a)
        if rng.random() < .5:
            a.w.compact()
        if rng.random() < .5:
            a.w.barrier()
    first = sim.stream.last + 1
    while a.conn:
        sim.deliver(a.conn)
    last = sim.stream.last
    if last <= first or not make_writer(sim, b):
        return
    often = rng.choice([0, .5])
    for _ in range(rng.randint(1, 9)):
        answered(sim, send_call(sim, b, "w", keys=[rng.choice("ab")]))
        if b.w and rng.random() < often:
            b.w.compact()
    if b.w:
        b.w.compact()
    until(sim, lambda: False, 1)
    epochs = [q for q, m in sim.stream.msgs.items() if q > last and m.kind == "e" and q <= sim.stream.committed]
    some = rng.choice([first - 1, rng.randint(first - 1, last - 1)])
    if epochs and rng.random() < .5:                          # the epoch record that makes them void is lost, too
        end = epochs[0] + rng.randint(1, 6)
        floors = [m.idx for q, m in sim.stream.msgs.items() if m.kind == "f" and first <= q <= last]
        if floors and rng.random() < .6:                      # and all behind it that would tell it of a floor
            some = first - 1
            end = max([q for q, m in sim.stream.msgs.items() if q >= epochs[0] and m.idx <= floors[0] + 1], default=last) + 1
        for q in range(epochs[0], end):
            if q in sim.stream.msgs and q < sim.stream.committed:
                sim.foreign_removal(q)
    sim.foreign_removal(some)
    gives_up(sim)


def latecomer(sim):
    """A candidate takes the end of the stream for its guard, before the messages there that it has not read are committed."""
    rng, (a, b) = sim.rng, sim.inst[:2]
    if not make_writer(sim, a) or not answered(sim, send_call(sim, a, "w")) or not a.w:
        return
    first = sim.stream.last + 1
    for _ in range(rng.randint(1, 4)):
        send_call(sim, a, "w", keys=[rng.choice("abc")])
        sim.serve(a)
    if not a.w:
        return
    while a.conn:
        sim.deliver(a.conn)
    b.refused = True
    b.takeover()
    while b.conn:
        sim.deliver(b.conn)
    last = sim.stream.last
    until(sim, lambda: False, 2)
    if not make_writer(sim, b):
        return
    for _ in range(rng.randint(1, 4)):
        answered(sim, send_call(sim, b, "w", keys=[rng.choice("ab")]))
    for q in range(first, last):
        if q in sim.stream.msgs and rng.random() < .5:
            sim.foreign_removal(q)
    gives_up(sim)


def copied(sim):
    """Another program copies a trim record, and removes the original and the next epoch record: the copy takes its place."""
    rng, (a, b) = sim.rng, sim.inst[:2]
    if not make_writer(sim, a):
        return
    for _ in range(rng.randint(2, 4)):
        answered(sim, send_call(sim, a, "w", keys=[rng.choice("ab")]))
    compact_and_trim(sim, a)
    stream = sim.stream
    trims = [q for q, m in stream.msgs.items() if m.kind == "t" and q <= stream.committed]
    last = stream.last
    if not trims or trims[-1] != last or not make_writer(sim, b):
        return
    sim.foreign_message(last)
    until(sim, lambda: stream.committed == stream.last)
    for x in rng.sample([a, b], 1) + [a]:
        if not make_writer(sim, x) or not answered(sim, send_call(sim, x, "w", keys=[rng.choice("ab")])):
            return
    epochs = [q for q, m in stream.msgs.items() if m.kind == "e" and last < q <= stream.committed]
    sim.foreign_removal(last)
    sim.foreign_removal(epochs[0])
    for q in stream.msgs.copy():
        if last < q < epochs[0]:
            sim.foreign_removal(q)


def gives_up(sim):
    """The loss is accepted, the next trim records have their effect, and an instance loads what is left."""
    rng = sim.rng
    sim.operator()
    until(sim, lambda: not sim.accepting or sim.accepting.w or sim.accepting.takeover(), 20)
    if not until(sim, lambda: not sim.accepting, 6):
        return
    until(sim, lambda: all(x.ready() for x in sim.inst), 6)
    w = sim.writer()
    if not w:
        return
    until(sim, lambda: not w.removing and not w.jobs or w.work() or w.remove(rng.randint(1, 9)), rng.randint(3, 30))
    for r in sim.stream.replicas:
        r.advance(sim.stream, 99)
    removal = next((n for n, entry in enumerate(sim.stream.entries) if entry[0] == "remove"), None)
    if removal and rng.random() < .3:                         # a replica follows the history anew, lost messages and all
        r, x = sim.stream.replicas[0], rng.choice(sim.inst)
        r.wipe()
        r.advance(sim.stream, removal)
        for _ in range(rng.choice([1, 9])):
            x.drop()
            if x.rep == 0 and not x.s.tpos:                   # it does not know of the loss
                break
        x.rep = 0
        while x.consume():
            pass
        until(sim, x.ready, 5)
        x.check()
        until(sim, lambda: False, 3)
    else:
        rng.choice(sim.inst).drop()


LOSSES = dict(accepted=accepted, reclaimed=reclaimed, latecomer=latecomer, copied=copied)

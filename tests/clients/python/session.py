"""A session of aetcd, an etcd client for Python over gRPC: `python3 session.py ENDPOINT`.

It prints what it saw, for the test that compares the lines with those of a run on etcd.
"""

import asyncio
import sys

import aetcd
from aetcd import rpc, rtypes

from steps import ask, finish, say, told

HOST, PORT = sys.argv[1].removeprefix("http://").split(":")


def client(**arguments):
    return aetcd.Client(host=HOST, port=int(PORT), timeout=20, **arguments)


def text(kv):
    return kv and (kv.key, kv.value, kv.version)


async def refused(what, call):
    try:
        await call
    except Exception as error:
        told(what, error)
    else:
        raise AssertionError(f"{what}: must be refused")


async def keys(etcd):
    await etcd.put(b"a", b"1")
    say("before", text((await etcd.put(b"a", b"2", prev_kv=True)).prev_kv))
    for key in (b"b", b"c", b"d\x00\xff"):
        await etcd.put(key, b"of " + key)
    say("one", text(await etcd.get(b"a")), await etcd.get(b"missing"), text(await etcd.get(b"a", serializable=True)))
    say("prefix", [text(kv) for kv in await etcd.get_prefix(b"d")])
    say("range", [text(kv) for kv in await etcd.get_range(b"a", b"c", sort_order="descend")])
    say("all", [kv.key for kv in await etcd.get_all(sort_order="descend", sort_target="mod")])
    say("replaced", await etcd.replace(b"a", b"2", b"3"), await etcd.replace(b"a", b"2", b"4"))
    gone = await etcd.delete(b"a", prev_kv=True)
    say("deleted", gone.deleted, text(gone.prev_kv), await etcd.delete(b"a"))
    await refused("no key", etcd.put(b"", b"x"))
    await refused("no such lease", etcd.put(b"a", b"x", lease=1234))
    say("deleted", (await etcd.delete_range(b"b", b"d")).deleted, (await etcd.delete_prefix(b"d")).deleted)


async def transactions(etcd):
    t = etcd.transactions
    await etcd.put(b"t", b"1")
    won, answers = await etcd.transaction(
        compare=[t.value(b"t") == b"1", t.version(b"t") > 0, t.create(b"new") == 0, t.mod(b"t") != 0],
        success=[t.put(b"t", b"2"), t.get(b"t"), t.delete(b"none")],
        failure=[t.get(b"t")],
    )
    say("won", won, len(answers), answers[1][0][0], answers[2].response_delete_range.deleted)
    lost, answers = await etcd.transaction(compare=[t.value(b"t") < b"2"], success=[], failure=[t.get(b"t")])
    say("lost", lost, answers[0][0][0])
    await refused("twice", etcd.transaction(compare=[], success=[t.put(b"x", b"1"), t.put(b"x", b"2")], failure=[]))
    await etcd.delete_prefix(b"t")


async def watches(etcd):
    watch = await etcd.watch_prefix(b"w/", prev_kv=True)
    first = (await etcd.put(b"w/a", b"1")).header.revision
    await etcd.put(b"w/a", b"2")
    await etcd.delete(b"w/a")
    await etcd.put(b"elsewhere", b"x")
    await etcd.put(b"w/b", b"1")
    seen = 0
    async for event in watch:
        say("event", event.kind, text(event.kv), text(event.prev_kv) if event.prev_kv else None)
        seen += 1
        if seen == 4:
            break
    await watch.cancel()
    past = await etcd.watch_prefix_once(b"w/", timeout=20, start_revision=first, kind=rtypes.EventKind.DELETE)
    say("past", past.kind, text(past.kv))
    try:
        await etcd.watch_once(b"w/quiet", timeout=1)
    except aetcd.WatchTimeoutError as error:
        told("quiet", error)
    revision = (await etcd.get(b"w/b")).mod_revision
    await etcd.compact(revision, physical=True)

    async def below():
        async for _ in await etcd.watch(b"w/a", start_revision=first):
            pass

    await refused("compacted", below())
    await etcd.delete_prefix(b"w/")


async def leases(etcd):
    lease = await etcd.lease(60)
    await etcd.put(b"l/a", b"x", lease=lease)
    say("granted", lease.ttl, await lease.granted_ttl(), 50 < await lease.remaining_ttl() <= 60, list(await lease.keys()))
    say("renewed", (await lease.refresh()).TTL)
    await lease.revoke()
    say("revoked", await etcd.get(b"l/a"))
    await refused("revoke again", lease.revoke())
    say("renew what is gone", (await lease.refresh()).TTL)
    own = await etcd.lease(60, lease_id=4660)
    say("own id", own.id)
    await refused("the same again", etcd.lease(60, lease_id=4660))
    await own.revoke()
    short = await etcd.lease(1)
    watch = asyncio.create_task(etcd.watch_once(b"l/short", timeout=20, kind=rtypes.EventKind.DELETE))
    await etcd.put(b"l/short", b"x", lease=short)
    say("expired", (await watch).kind, await etcd.get(b"l/short"))


async def locks(etcd):
    one, two = etcd.lock(b"turn", ttl=60), etcd.lock(b"turn", ttl=60)
    say("first", await one.acquire(), await one.is_acquired())
    say("second", await two.acquire(timeout=1), await two.is_acquired())
    waiting = asyncio.create_task(two.acquire(timeout=20))
    await asyncio.sleep(0)
    say("released", await one.release())
    say("second", await waiting, await two.is_acquired(), (await two.refresh()).TTL)
    say("released", await two.release(), await etcd.get(b"turn"))
    async with etcd.lock(b"block", ttl=60) as lock:
        say("in a block", await lock.is_acquired())

    counted = 0

    async def turn():
        nonlocal counted
        async with client() as own:
            for _ in range(4):
                lock = own.lock(b"count", ttl=60)
                assert await lock.acquire(timeout=None)
                before = counted
                await own.get(b"count")
                counted = before + 1
                assert await lock.release()

    await asyncio.gather(*(turn() for _ in range(4)))
    say("counted", counted)


async def maintenance(etcd):
    status = await etcd.status()
    say("status", status.version.rsplit(".", 1)[0], status.db_size > 0)
    members = [member async for member in etcd.members()]
    say("members", [member.name for member in members])
    say("alarms", [alarm async for alarm in etcd.list_alarms()])
    await etcd.defragment()
    await refused("compact the future", etcd.compact(1_000_000))


async def restart(etcd):
    await etcd.put(b"kept", b"x")
    ask("kill")
    ask("serve")
    for _ in range(200):
        try:
            say("after the restart", text(await etcd.get(b"kept")))
            break
        except aetcd.ConnectionFailedError:
            await asyncio.sleep(0.1)
    await etcd.delete(b"kept")


async def users(etcd):
    auth = rpc.AuthStub(etcd.channel)
    for name, password in (("root", "secret"), ("reader", "read-it")):
        await auth.UserAdd(rpc.AuthUserAddRequest(name=name, password=password))
        await auth.RoleAdd(rpc.AuthRoleAddRequest(name=name))
        await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
    permission = rpc.Permission(permType=rpc.Permission.READ, key=b"u/", range_end=b"u0")
    await auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name="reader", perm=permission))
    await etcd.put(b"u/a", b"1")
    await auth.AuthEnable(rpc.AuthEnableRequest())
    await refused("without a name", etcd.get(b"u/a"))
    await refused("wrong password", client(username="reader", password="wrong").connect())
    async with client(username="reader", password="read-it") as reader:
        say("reader", text(await reader.get(b"u/a")))
        await refused("elsewhere", reader.get(b"hidden"))
        await refused("write", reader.put(b"u/a", b"2"))
    async with client(username="root", password="secret") as root:
        await root.put(b"u/a", b"2")
        await rpc.AuthStub(root.channel).AuthDisable(rpc.AuthDisableRequest(), metadata=root.metadata)
    say("for everybody again", text(await etcd.get(b"u/a")))


async def main():
    for step in (keys, transactions, watches, leases, locks, maintenance, restart, users):
        say("#", step.__name__)
        async with client() as etcd:
            await asyncio.wait_for(step(etcd), timeout=60)


finish(lambda: asyncio.run(main()))

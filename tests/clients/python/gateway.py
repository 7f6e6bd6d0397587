"""A session of etcd3gw, an etcd client for Python over the JSON gateway: `python3 gateway.py ENDPOINT`.

It prints what it saw, for the test that compares the lines with those of a run on etcd.
"""

import sys
import threading

from etcd3gw import exceptions
from etcd3gw.client import Etcd3Client
from steps import ask, finish, say, told

HOST, PORT = sys.argv[1].removeprefix("http://").split(":")


def client():
    return Etcd3Client(host=HOST, port=int(PORT), timeout=20)


def refused(what, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except exceptions.Etcd3Exception as error:
        told(what, error)
    else:
        raise AssertionError(f"{what}: must be refused")


def pairs(found):
    return [(kv["key"], value, kv["version"]) for value, kv in found]


def keys(etcd):
    say("put", etcd.put("a", "1"), etcd.put("a", "2"), etcd.put("bytes", b"\x00\xff\n"), etcd.put("c", ""))
    say("one", etcd.get("a"), etcd.get("missing"), etcd.get("bytes"), etcd.get("c"))
    say("all", pairs(etcd.get_all(sort_order="descend")))
    say("prefix", pairs(etcd.get_prefix("b")))
    say("sorted", pairs(etcd.get("\0", metadata=True, range_end="\0", sort_order="ascend", sort_target="mod", limit=2)))
    say("serializable", etcd.get("a", serializable=True), pairs(etcd.get("a", metadata=True, keys_only=True)))
    revision = int(etcd.get("a", metadata=True)[0][1]["create_revision"])
    say("past", etcd.get("a", revision=revision))
    say("created", etcd.create("new", "1"), etcd.create("new", "2"))
    say("replaced", etcd.replace("a", "2", "3"), etcd.replace("a", "2", "4"))
    say("deleted", etcd.delete("a"), etcd.delete("a"), etcd.delete_prefix("b"), etcd.get_all(sort_order="ascend") != [])
    refused("future", etcd.get, "a", revision=1_000_000)
    refused("no key", etcd.put, "", "x")
    refused("bad transaction", etcd.transaction, {"success": [{"request_put": {"key": "YQ=="}}] * 2})
    refused("no transaction", etcd.transaction, ["none"])


def watches(etcd):
    etcd.put("w/a", "1")
    first = int(etcd.get("w/a", metadata=True)[0][1]["mod_revision"])
    events, cancel = etcd.watch_prefix("w/", start_revision=first, prev_kv=True)
    etcd.put("w/a", "2")
    etcd.delete("w/a")
    etcd.put("elsewhere", "x")
    etcd.put("w/b", "1")
    for count, event in enumerate(events, 1):
        before = event.get("prev_kv", {})
        say("event", event.get("type", "PUT"), event["kv"]["key"], event["kv"].get("value"), before.get("value"))
        if count == 4:
            cancel()
    say("once", etcd.watch_once("w/a", timeout=20, start_revision=first, filters=["NOPUT"])["type"])
    refused("quiet", etcd.watch_once, "w/quiet", timeout=1)


def leases(etcd):
    lease = etcd.lease(60)
    say("put", etcd.put("l/a", "x", lease=lease), lease.keys(), 50 < lease.ttl() <= 60, lease.refresh())
    say("revoked", lease.revoke(), etcd.get("l/a"), lease.ttl(), lease.refresh())
    refused("revoke again", lease.revoke)
    short = etcd.lease(1)
    etcd.put("l/short", "x", lease=short)
    say("expired", etcd.watch_once("l/short", timeout=20, filters=["NOPUT"])["type"], etcd.get("l/short"))


def locks(etcd):
    one, two = etcd.lock("turn", ttl=60), etcd.lock("turn", ttl=60)
    say("first", one.acquire(), one.is_acquired(), one.refresh())
    say("second", two.acquire(), two.is_acquired())
    say("released", one.release(), two.release(), two.acquire(), two.release())
    with etcd.lock("block", ttl=60) as lock:
        say("in a block", lock.is_acquired())

    # Many threads create the same keys; each key is created once.
    created = []

    def contend():
        own = client()
        created.extend(key for key in range(20) if own.create(f"contended/{key}", "x"))

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("created", sorted(created) == list(range(20)))


def maintenance(etcd):
    status = etcd.status()
    say("status", status["version"].rsplit(".", 1)[0], sorted(status), etcd.api_path)
    say("members", [(member["name"], member["clientURLs"] == [sys.argv[1]]) for member in etcd.members()])


def restart(etcd):
    etcd.put("kept", "x")
    ask("kill")
    try:
        etcd.get("kept")
    except exceptions.ConnectionFailedError as error:
        # Its text names what this moment of the connection was.
        say("nobody serves:", type(error).__name__)
    ask("serve")
    say("after the restart", etcd.get("kept"))


def users(etcd):
    def post(path, **body):
        return etcd.post(etcd.get_url(path), json=body)

    for name, password in (("root", "secret"), ("reader", "read-it")):
        post("/auth/user/add", name=name, password=password)
        post("/auth/role/add", name=name)
        post("/auth/user/grant", user=name, role=name)
    post("/auth/role/grant", name="reader", perm={"permType": "READ", "key": "dS9h"})
    etcd.put("u/a", "1")
    post("/auth/enable")
    refused("without a name", etcd.get, "u/a")
    refused("wrong password", post, "/auth/authenticate", name="reader", password="wrong")
    reader, root = client(), client()
    reader.session.headers["Authorization"] = post("/auth/authenticate", name="reader", password="read-it")["token"]
    root.session.headers["Authorization"] = post("/auth/authenticate", name="root", password="secret")["token"]
    say("reader", reader.get("u/a"))
    refused("elsewhere", reader.get, "hidden")
    refused("write", reader.put, "u/a", "2")
    say("root", root.put("u/a", "2"), root.get("u/a"))
    root.post(root.get_url("/auth/disable"), json={})
    say("for everybody again", etcd.get("u/a"))


def main():
    for step in (keys, watches, leases, locks, maintenance, restart, users):
        say("#", step.__name__)
        step(client())


finish(main)

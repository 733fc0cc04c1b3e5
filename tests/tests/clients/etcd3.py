"""Keys, transactions, watches, leases, locks and errors through the Python client etcd3."""
import sys

import etcd3

client = etcd3.client(host=sys.argv[1], port=int(sys.argv[2]), timeout=10)

client.put("a/1", "one")
client.put("a/2", "two")
value, meta = client.get("a/1")
assert value == b"one" and meta.version == 1, (value, meta.version)
assert client.get("nothing") == (None, None)
assert [v for v, _ in client.get_prefix("a/")] == [b"one", b"two"]
assert [v for v, _ in client.get_prefix("a/", sort_order="descend")] == [b"two", b"one"]
assert client.replace("a/1", "one", "uno") and not client.replace("a/1", "one", "eins")
assert not client.put_if_not_exists("a/1", "x") and client.put_if_not_exists("a/3", "x")

done, answers = client.transaction(
    compare=[client.transactions.value("a/1") == "uno", client.transactions.version("a/3") > 0],
    success=[client.transactions.put("a/4", "four"), client.transactions.get("a/1")],
    failure=[client.transactions.delete("a/1")],
)
assert done and answers[1][0][0] == b"uno", answers

events, cancel = client.watch_prefix("w/")
client.put("w/1", "x")
client.delete("w/1")
put, delete = next(events), next(events)
assert isinstance(put, etcd3.events.PutEvent) and put.key == b"w/1" and put.value == b"x"
assert isinstance(delete, etcd3.events.DeleteEvent) and delete.key == b"w/1"
cancel()

lease = client.lease(600)
client.put("leased", "x", lease=lease)
assert 0 < lease.remaining_ttl <= 600 and lease.granted_ttl == 600 and list(lease.keys) == [b"leased"]
assert [answer.TTL for answer in lease.refresh()] == [600]
lease.revoke()
assert client.get("leased") == (None, None)

with client.lock("lock", ttl=60) as lock:
    assert lock.is_acquired()
assert not lock.is_acquired()

assert client.delete_prefix("a/").deleted == 4
assert len(list(client.members)) == 1
assert client.status().leader is not None
client.compact(client.get_response("a/1").header.revision)
print("passed")

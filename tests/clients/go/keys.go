package main

import (
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func keys(s *session) {
	for _, kv := range []string{"k/a", "k/b", "k/c", "k/d"} {
		r := s.put(kv, "1 of "+kv)
		fmt.Println("put at", s.rel(r.Header.Revision))
	}
	s.put("k/b", "2")
	r := s.put("k/b", "3", clientv3.WithPrevKV())
	fmt.Println("before:", s.kv(r.PrevKv))

	s.found("one", s.get("k/a"))
	s.found("none", s.get("k/missing"))
	s.found("prefix", s.get("k/", clientv3.WithPrefix()))
	s.found("range", s.get("k/b", clientv3.WithRange("k/d")))
	s.found("from key", s.get("k/c", clientv3.WithFromKey()))
	s.found("limit", s.get("k/", clientv3.WithPrefix(), clientv3.WithLimit(2)))
	s.found("past", s.get("k/", clientv3.WithPrefix(), clientv3.WithRev(s.base+2)))
	s.found("serializable", s.get("k/a", clientv3.WithSerializable()))
	s.found("keys", s.get("k/", clientv3.WithPrefix(), clientv3.WithKeysOnly()))
	s.found("count", s.get("k/", clientv3.WithPrefix(), clientv3.WithCountOnly()))
	for _, target := range []clientv3.SortTarget{
		clientv3.SortByKey, clientv3.SortByVersion, clientv3.SortByCreateRevision, clientv3.SortByModRevision, clientv3.SortByValue,
	} {
		for _, order := range []clientv3.SortOrder{clientv3.SortAscend, clientv3.SortDescend} {
			s.found(fmt.Sprint("sorted ", target, order), s.get("k/", clientv3.WithPrefix(), clientv3.WithSort(target, order)))
		}
	}
	s.found("first created", s.get("k/", clientv3.WithFirstCreate()...))
	s.found("last created", s.get("k/", clientv3.WithLastCreate()...))
	s.found("first revision", s.get("k/", clientv3.WithFirstRev()...))
	s.found("last revision", s.get("k/", clientv3.WithLastRev()...))
	s.found("first key", s.get("k/", clientv3.WithFirstKey()...))
	s.found("last key", s.get("k/", clientv3.WithLastKey()...))
	s.found("modified between", s.get("k/", clientv3.WithPrefix(), clientv3.WithMinModRev(s.base+3), clientv3.WithMaxModRev(s.base+4)))
	s.found("created between", s.get("k/", clientv3.WithPrefix(), clientv3.WithMinCreateRev(s.base+2), clientv3.WithMaxCreateRev(s.base+3)))

	_, err := s.client.Get(s.ctx, "")
	refused("no key", err)
	_, err = s.client.Get(s.ctx, "k/a", clientv3.WithRev(s.base+1000))
	refused("future", err)
	_, err = s.client.Put(s.ctx, "k/a", "", clientv3.WithLease(12345))
	refused("lease that is none", err)
	_, err = s.client.Put(s.ctx, "k/missing", "", clientv3.WithIgnoreValue())
	refused("ignored value of nothing", err)
	_, err = s.client.Put(s.ctx, "k/a", "x", clientv3.WithIgnoreValue())
	refused("value given and ignored", err)

	s.put("k/a", "", clientv3.WithIgnoreValue())
	s.put("k/a", "new", clientv3.WithIgnoreLease())
	s.found("same value and lease", s.get("k/a"))

	d := must(s.client.Delete(s.ctx, "k/a", clientv3.WithPrevKV()))
	fmt.Println("deleted", d.Deleted, s.kvs(d.PrevKvs), "at", s.rel(d.Header.Revision))
	d = must(s.client.Delete(s.ctx, "k/a"))
	fmt.Println("deleted", d.Deleted, "at", s.rel(d.Header.Revision))
	for _, op := range []clientv3.Op{
		clientv3.OpPut("k/op", "x"), clientv3.OpGet("k/op"), clientv3.OpDelete("k/", clientv3.WithPrefix(), clientv3.WithPrevKV()),
	} {
		r := must(s.client.Do(s.ctx, op))
		switch {
		case r.Put() != nil:
			fmt.Println("op put at", s.rel(r.Put().Header.Revision))
		case r.Get() != nil:
			s.found("op get", r.Get())
		case r.Del() != nil:
			fmt.Println("op deleted", r.Del().Deleted, s.kvs(r.Del().PrevKvs))
		}
	}
}

func streamedRanges(s *session) {
	const count = 300
	for i := range count {
		s.put(fmt.Sprintf("s/%03d", i), string(make([]byte, 1000)))
	}
	seen := 0
	for answer := range must(s.client.GetStream(s.ctx, "s/", clientv3.WithPrefix())) {
		done(answer.Err())
		for _, kv := range answer.RangeResponse.GetKvs() {
			check(string(kv.Key) == fmt.Sprintf("s/%03d", seen), "key %d is %s", seen, kv.Key)
			seen++
		}
	}
	fmt.Println("streamed", seen)
	s.found("counted", s.get("s/", clientv3.WithPrefix(), clientv3.WithCountOnly()))
}

func transactions(s *session) {
	s.put("t/a", "1")
	lease := must(s.client.Grant(s.ctx, 600)).ID
	s.put("t/leased", "x", clientv3.WithLease(lease))
	compares := []struct {
		name string
		cmp  clientv3.Cmp
	}{
		{"value is", clientv3.Compare(clientv3.Value("t/a"), "=", "1")},
		{"value is not", clientv3.Compare(clientv3.Value("t/a"), "!=", "1")},
		{"value above", clientv3.Compare(clientv3.Value("t/a"), ">", "0")},
		{"version is", clientv3.Compare(clientv3.Version("t/a"), "=", 1)},
		{"version below", clientv3.Compare(clientv3.Version("t/a"), "<", 1)},
		{"created", clientv3.Compare(clientv3.CreateRevision("t/a"), "=", s.base+1)},
		{"modified", clientv3.Compare(clientv3.ModRevision("t/a"), ">", s.base+1)},
		{"missing", clientv3.Compare(clientv3.CreateRevision("t/missing"), "=", 0)},
		{"leased", clientv3.Compare(clientv3.LeaseValue("t/leased"), "=", lease)},
		{"not leased", clientv3.Compare(clientv3.LeaseValue("t/a"), "=", lease)},
		{"range", clientv3.Compare(clientv3.Version("t/"), "=", 1).WithPrefix()},
		{"range to", clientv3.Compare(clientv3.Value("t/a"), "<", "2").WithRange("t/b")},
	}
	for _, compare := range compares {
		r := must(s.client.Txn(s.ctx).If(compare.cmp).Then(clientv3.OpGet("t/a")).Else(clientv3.OpGet("t/none")).Commit())
		fmt.Println(compare.name, r.Succeeded, r.Responses[0].GetResponseRange().Count, "at", s.rel(r.Header.Revision))
	}

	r := must(s.client.Txn(s.ctx).If(
		clientv3.Compare(clientv3.Value("t/a"), "=", "1"),
		clientv3.Compare(clientv3.Version("t/b"), "=", 0),
	).Then(
		clientv3.OpPut("t/b", "new", clientv3.WithPrevKV()),
		clientv3.OpGet("t/", clientv3.WithPrefix()),
		clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.Value("t/a"), "=", "1")},
			[]clientv3.Op{clientv3.OpPut("t/c", "nested"), clientv3.OpDelete("t/a", clientv3.WithPrevKV())},
			[]clientv3.Op{clientv3.OpPut("t/d", "not")},
		),
		clientv3.OpGet("t/", clientv3.WithPrefix(), clientv3.WithCountOnly()),
	).Commit())
	fmt.Println("succeeded", r.Succeeded, "at", s.rel(r.Header.Revision))
	fmt.Println(s.kvs(r.Responses[1].GetResponseRange().Kvs))
	nested := r.Responses[2].GetResponseTxn()
	fmt.Println("nested", nested.Succeeded, len(nested.Responses))
	fmt.Println("count", r.Responses[3].GetResponseRange().Count)
	s.found("after", s.get("t/", clientv3.WithPrefix()))

	_, err := s.client.Txn(s.ctx).Then(clientv3.OpPut("t/x", "1"), clientv3.OpPut("t/x", "2")).Commit()
	refused("twice the same key", err)
	_, err = s.client.Txn(s.ctx).Then(clientv3.OpPut("t/x", "1"), clientv3.OpPut("t/missing", "", clientv3.WithIgnoreValue())).Commit()
	refused("ignored value of nothing", err)
	var many []clientv3.Op
	for i := range 129 {
		many = append(many, clientv3.OpPut(fmt.Sprintf("t/many/%d", i), ""))
	}
	_, err = s.client.Txn(s.ctx).Then(many...).Commit()
	refused("too many", err)
	s.found("nothing of it", s.get("t/x"))
	must(s.client.Revoke(s.ctx, lease))
}

package main

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// events takes count events from a watch, however they are cut into responses.
func (s *session) events(what string, watch clientv3.WatchChan, count int) []*clientv3.Event {
	var events []*clientv3.Event
	for len(events) < count {
		response := next(s, what, watch)
		done(response.Err())
		events = append(events, response.Events...)
	}
	check(len(events) == count, "%s: %d events instead of %d", what, len(events), count)
	for _, event := range events {
		fmt.Printf("%s: %s\n", what, s.event(event))
	}
	return events
}

func watches(s *session) {
	watching, stop := context.WithCancel(s.ctx)
	defer stop()
	created := s.client.Watch(watching, "w/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	check(next(s, "creation", created).Created, "a watch says first that it is there")
	s.put("w/a", "1")
	s.put("w/b", "1")
	s.put("w/a", "2")
	must(s.client.Delete(s.ctx, "w/a"))
	must(s.client.Txn(s.ctx).Then(clientv3.OpPut("w/a", "3"), clientv3.OpDelete("w/b"), clientv3.OpPut("w/c", "1")).Commit())
	s.events("live", created, 7)

	s.events("history", s.client.Watch(watching, "w/", clientv3.WithPrefix(), clientv3.WithRev(s.base+1), clientv3.WithPrevKV()), 7)
	s.events("one key", s.client.Watch(watching, "w/a", clientv3.WithRev(s.base+2)), 3)
	s.events("range", s.client.Watch(watching, "w/b", clientv3.WithRange("w/d"), clientv3.WithRev(s.base+1)), 3)
	s.events("from key", s.client.Watch(watching, "w/c", clientv3.WithFromKey(), clientv3.WithRev(s.base+1)), 1)
	s.events("puts", s.client.Watch(watching, "w/", clientv3.WithPrefix(), clientv3.WithRev(s.base+1), clientv3.WithFilterDelete()), 5)
	s.events("deletes", s.client.Watch(watching, "w/", clientv3.WithPrefix(), clientv3.WithRev(s.base+1), clientv3.WithFilterPut(), clientv3.WithPrevKV()), 2)

	progress := s.client.Watch(clientv3.WithRequireLeader(watching), "w/quiet", clientv3.WithProgressNotify())
	response := next(s, "progress", progress)
	check(response.IsProgressNotify(), "nothing else happens to this key")
	fmt.Println("progress at", s.rel(response.Header.Revision))
	own, stopOwn := context.WithCancel(watching)
	requested := s.client.Watch(own, "w/asked", clientv3.WithCreatedNotify())
	next(s, "creation", requested)
	done(s.client.RequestProgress(own))
	response = next(s, "progress on request", requested)
	fmt.Println("progress on request", response.IsProgressNotify(), "at", s.rel(response.Header.Revision))
	stopOwn()
	for range requested {
	}
	fmt.Println("a cancelled watch ends")

	// Fragments: more than a message may hold, in one revision.
	large := string(make([]byte, 300_000))
	var ops []clientv3.Op
	for i := range 4 {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("w/large/%d", i), large))
	}
	before := s.get("w/").Header.Revision
	must(s.client.Txn(s.ctx).Then(ops...).Commit())
	count := 0
	for count < len(ops) {
		count += len(next(s, "fragments", s.client.Watch(watching, "w/large", clientv3.WithPrefix(), clientv3.WithRev(before+1), clientv3.WithFragment())).Events)
	}
	fmt.Println("fragments", count)
}

func compaction(s *session) {
	for i := range 10 {
		s.put("c/a", fmt.Sprint(i))
	}
	running := s.client.Watch(s.ctx, "c/a", clientv3.WithRev(s.base+1))
	s.events("before", running, 10)
	r := must(s.client.Compact(s.ctx, s.base+5, clientv3.WithCompactPhysical()))
	fmt.Println("compacted at", s.rel(r.Header.Revision))
	_, err := s.client.Compact(s.ctx, s.base+5)
	refused("again", err)
	_, err = s.client.Compact(s.ctx, s.base+100)
	refused("the future", err)
	_, err = s.client.Get(s.ctx, "c/a", clientv3.WithRev(s.base+4))
	refused("read below", err)
	s.found("read at", s.get("c/a", clientv3.WithRev(s.base+5)))

	late := next(s, "late watch", s.client.Watch(s.ctx, "c/a", clientv3.WithRev(s.base+2)))
	fmt.Println("late watch", late.Canceled, s.rel(late.CompactRevision), describe(late.Err()))
	s.events("resumed", s.client.Watch(s.ctx, "c/a", clientv3.WithRev(late.CompactRevision)), 6)
	s.put("c/a", "after")
	s.events("the running one", running, 1)
}

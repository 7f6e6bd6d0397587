package main

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// restarts has one client live through the server's end and next start, and through its death.
func restarts(s *session) {
	lease := s.lease(60)
	mutex := concurrency.NewMutex(lease, "r/mutex")
	done(mutex.Lock(s.ctx))
	kept := must(s.client.Grant(s.ctx, 5))
	s.put("r/kept", "", clientv3.WithLease(kept.ID))
	alive := must(s.client.KeepAlive(s.ctx, kept.ID))
	next(s, "a renewal", alive)
	watch := s.client.Watch(clientv3.WithRequireLeader(s.ctx), "r/log", clientv3.WithPrefix())
	before := s.get("r/").Header.Revision

	for round, end := range []string{"stop", "kill"} {
		s.put(fmt.Sprint("r/log/", round, "/before"), "")
		s.ask(end)
		brief, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
		_, err := s.client.Get(brief, "r/log")
		cancel()
		refused("nobody serves", err)
		answer := make(chan error)
		go func() {
			// A read is tried again until there is a server.
			_, err := s.client.Get(s.ctx, "r/log")
			answer <- err
		}()
		s.ask("serve")
		done(next(s, "the read", answer))
		s.put(fmt.Sprint("r/log/", round, "/after"), "")
	}
	var seen []string
	last := before
	for len(seen) < 4 {
		response := next(s, "the events", watch)
		done(response.Err())
		for _, event := range response.Events {
			check(event.Kv.ModRevision == last+1, "the watch has a gap before %d", event.Kv.ModRevision)
			last = event.Kv.ModRevision
			seen = append(seen, string(event.Kv.Key))
		}
	}
	fmt.Println("events", seen)
	owner := must(s.client.Txn(s.ctx).If(mutex.IsOwner()).Commit())
	fmt.Println("still the owner", owner.Succeeded)
	done(mutex.Unlock(s.ctx))
	// Renewals from before the restarts may still wait in the channel; its lease lives only by those after.
	until := time.Now().Add(7 * time.Second)
	for time.Now().Before(until) {
		next(s, "a renewal", alive)
	}
	fmt.Println("kept alive", s.get("r/kept").Count)
	must(s.client.Revoke(s.ctx, kept.ID))
	done(lease.Close())
}

package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func (s *session) lease(ttl int) *concurrency.Session {
	return must(concurrency.NewSession(s.client, concurrency.WithTTL(ttl)))
}

// together runs count copies of work at once and waits for all.
func together(count int, work func(int)) {
	var all sync.WaitGroup
	problems := make(chan any, count)
	for i := range count {
		all.Go(func() {
			defer func() {
				if problem := recover(); problem != nil {
					problems <- problem
				}
			}()
			work(i)
		})
	}
	all.Wait()
	close(problems)
	for problem := range problems {
		panic(problem)
	}
}

func mutexes(s *session) {
	const workers, turns = 6, 4
	together(workers, func(int) {
		lease := s.lease(60)
		defer lease.Close()
		mutex := concurrency.NewMutex(lease, "m/contended")
		for range turns {
			done(mutex.Lock(s.ctx))
			// Lost if two are in here at once: no transaction guards it.
			count, _ := strconv.Atoi(value(s.get("m/count")))
			s.put("m/count", strconv.Itoa(count+1))
			done(mutex.Unlock(s.ctx))
		}
	})
	fmt.Println("counted", value(s.get("m/count")), "of", workers*turns)

	one, two := s.lease(60), s.lease(2)
	first, second := concurrency.NewMutex(one, "m/tried"), concurrency.NewMutex(two, "m/tried")
	done(second.TryLock(s.ctx))
	refused("tried", first.TryLock(s.ctx))
	owner := must(s.client.Txn(s.ctx).If(second.IsOwner()).Then(clientv3.OpPut("m/owned", "yes")).Commit())
	fmt.Println("is the owner", owner.Succeeded)
	refused("unlock what is not held", first.Unlock(s.ctx))

	// The holder goes without a word; its lease lets the next one in.
	two.Orphan()
	done(first.Lock(s.ctx))
	owner = must(s.client.Txn(s.ctx).If(second.IsOwner()).Commit())
	fmt.Println("after the expiry the owner is the second", owner.Succeeded)
	done(first.Unlock(s.ctx))
	done(one.Close())

	three := s.lease(60)
	locker := concurrency.NewLocker(three, "m/locker")
	locker.Lock()
	fmt.Println("locked", s.get("m/locker/", clientv3.WithPrefix()).Count)
	locker.Unlock()
	done(three.Close())
	fmt.Println("left behind", s.get("m/locker/", clientv3.WithPrefix()).Count)

	// A waiter that gives up has left the queue when its session ends at the latest: it may have given up before
	// it was told of its own place.
	four, five := s.lease(60), s.lease(60)
	done(concurrency.NewMutex(four, "m/left").Lock(s.ctx))
	brief, cancel := context.WithCancel(s.ctx)
	waiting := concurrency.NewMutex(five, "m/left")
	result := make(chan error)
	go func() { result <- waiting.Lock(brief) }()
	for s.get("m/left/", clientv3.WithPrefix()).Count < 2 {
		done(s.ctx.Err())
	}
	cancel()
	refused("waiter", next(s, "the waiter", result))
	done(five.Close())
	fmt.Println("in the queue", s.get("m/left/", clientv3.WithPrefix()).Count)
	done(four.Close())
}

func value(r *clientv3.GetResponse) string {
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

func elections(s *session) {
	one, two := s.lease(60), s.lease(60)
	first, second := concurrency.NewElection(one, "e/crown"), concurrency.NewElection(two, "e/crown")
	_, err := first.Leader(s.ctx)
	refused("nobody leads", err)
	refused("proclaim without a mandate", first.Proclaim(s.ctx, "x"))

	watching, stop := context.WithCancel(s.ctx)
	seen := concurrency.NewElection(two, "e/crown").Observe(watching)
	expect := func(want string) {
		got := next(s, "the leader "+want, seen)
		check(value(got) == want, "%s leads, not %s", value(got), want)
		fmt.Println("observed", want)
	}
	done(first.Campaign(s.ctx, "one"))
	expect("one")
	done(first.Proclaim(s.ctx, "one again"))
	expect("one again")
	won := make(chan error)
	go func() { won <- second.Campaign(s.ctx, "two") }()
	for s.get("e/crown/", clientv3.WithPrefix()).Count < 2 {
		done(s.ctx.Err())
	}
	fmt.Println("leader", value(must(first.Leader(s.ctx))))

	resumed := concurrency.ResumeElection(one, "e/crown", first.Key(), first.Rev())
	done(resumed.Proclaim(s.ctx, "one, resumed"))
	expect("one, resumed")
	done(resumed.Resign(s.ctx))
	done(next(s, "the second to win", won))
	expect("two")
	fmt.Println("leader", value(must(first.Leader(s.ctx))))
	done(two.Close())
	_, err = first.Leader(s.ctx)
	refused("nobody leads again", err)
	stop()
	for range seen {
	}
	done(one.Close())
}

func stm(s *session) {
	levels := []struct {
		name  string
		level concurrency.Isolation
	}{
		{"serializable snapshot", concurrency.SerializableSnapshot},
		{"serializable", concurrency.Serializable},
		{"repeatable reads", concurrency.RepeatableReads},
		{"read committed", concurrency.ReadCommitted},
	}
	for _, isolation := range levels {
		accounts := []string{"stm/a", "stm/b", "stm/c"}
		for _, account := range accounts {
			s.put(account, "100")
		}
		workers := 4
		if isolation.level == concurrency.ReadCommitted {
			// Which promises nothing to those who write what others have read.
			workers = 1
		}
		together(workers, func(worker int) {
			for turn := range 6 {
				from, to := accounts[(worker+turn)%3], accounts[(worker+turn+1)%3]
				must(concurrency.NewSTM(s.client, func(stm concurrency.STM) error {
					a, _ := strconv.Atoi(stm.Get(from))
					b, _ := strconv.Atoi(stm.Get(to))
					stm.Put(from, strconv.Itoa(a-5))
					stm.Put(to, strconv.Itoa(b+5))
					return nil
				}, concurrency.WithIsolation(isolation.level), concurrency.WithAbortContext(s.ctx), concurrency.WithPrefetch(from)))
			}
		})
		sum := 0
		for _, account := range accounts {
			amount, err := strconv.Atoi(value(s.get(account)))
			done(err)
			sum += amount
		}
		check(sum == 300, "%s: the sum is %d", isolation.name, sum)
		fmt.Println(isolation.name, "keeps the sum")
	}
	r := must(concurrency.NewSTM(s.client, func(stm concurrency.STM) error {
		stm.Del("stm/a")
		stm.Put("stm/d", fmt.Sprint(stm.Rev("stm/missing"), stm.Get("stm/missing") == ""))
		return nil
	}))
	fmt.Println("mixed", r.Succeeded, value(s.get("stm/d")), s.get("stm/a").Count)
	_, err := concurrency.NewSTM(s.client, func(concurrency.STM) error { return fmt.Errorf("on second thought") })
	refused("aborted", err)
}

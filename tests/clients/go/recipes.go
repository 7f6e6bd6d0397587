package main

import (
	"fmt"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/experimental/recipes"
)

func barriers(s *session) {
	barrier := recipe.NewBarrier(s.client, "b/barrier")
	done(barrier.Hold())
	refused("hold it twice", recipe.NewBarrier(s.client, "b/barrier").Hold())
	passed := make(chan error, 3)
	for range 3 {
		go func() { passed <- recipe.NewBarrier(s.client, "b/barrier").Wait() }()
	}
	check(len(passed) == 0, "it is held")
	done(barrier.Release())
	for range 3 {
		done(next(s, "the barrier", passed))
	}
	fmt.Println("released")

	const count = 4
	var inside atomic.Int32
	together(count, func(int) {
		lease := s.lease(60)
		defer lease.Close()
		double := recipe.NewDoubleBarrier(lease, "b/double", count)
		inside.Add(1)
		done(double.Enter())
		check(inside.Load() == count, "all are here")
		done(double.Leave())
	})
	fmt.Println("entered and left by", inside.Load(), "leaving", s.get("b/double", clientv3.WithPrefix()).Count)
}

func queues(s *session) {
	queue := recipe.NewQueue(s.client, "q/fifo")
	for i := range 4 {
		done(queue.Enqueue(fmt.Sprint("item ", i)))
	}
	for range 4 {
		fmt.Println(must(queue.Dequeue()))
	}
	// One that waits for an item before there is one.
	item := make(chan string)
	go func() {
		value, err := queue.Dequeue()
		if err != nil {
			value = err.Error()
		}
		item <- value
	}()
	done(queue.Enqueue("awaited"))
	fmt.Println(next(s, "the item", item))

	priority := recipe.NewPriorityQueue(s.client, "q/priority")
	for _, p := range []uint16{3, 1, 2, 1} {
		done(priority.Enqueue(fmt.Sprint("of priority ", p), p))
	}
	for range 4 {
		fmt.Println(must(priority.Dequeue()))
	}

	// Each item goes to one of many.
	const items = 12
	for i := range items {
		done(queue.Enqueue(fmt.Sprint(i)))
	}
	taken := make(chan string, items)
	together(4, func(int) {
		for range items / 4 {
			taken <- must(recipe.NewQueue(s.client, "q/fifo").Dequeue())
		}
	})
	close(taken)
	different := map[string]bool{}
	for item := range taken {
		different[item] = true
	}
	fmt.Println("taken", len(different), "of", items)
}

func rwMutexes(s *session) {
	one, two, three := s.lease(60), s.lease(60), s.lease(60)
	reader, other, writer := recipe.NewRWMutex(one, "rw"), recipe.NewRWMutex(two, "rw"), recipe.NewRWMutex(three, "rw")
	done(reader.RLock())
	done(other.RLock())
	fmt.Println("two readers", s.get("rw", clientv3.WithPrefix()).Count)
	wrote := make(chan error)
	go func() { wrote <- writer.Lock() }()
	for s.get("rw", clientv3.WithPrefix()).Count < 3 {
		done(s.ctx.Err())
	}
	done(reader.RUnlock())
	select {
	case <-wrote:
		panic("a writer is in beside a reader")
	default:
	}
	done(other.RUnlock())
	done(next(s, "the writer", wrote))
	read := make(chan error)
	go func() { read <- reader.RLock() }()
	done(writer.Unlock())
	done(next(s, "the reader", read))
	fmt.Println("writer and reader in turn")
	done(reader.RUnlock())
}

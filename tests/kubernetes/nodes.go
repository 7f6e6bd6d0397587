package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// nodes are the three views of each node: its apiserver, the informer of a controller there, and its member
// of the storage.
type nodes struct {
	*driver
	load      *load
	observers []*observer
	informers []cache.SharedIndexInformer
	// A client of each member alone.
	members []*clientv3.Client
	random  *rand.Rand
}

// nodeKills ends the storage of one node after the other under a load through all apiservers. The apiservers
// go on. Each knows its own member alone, so one of them is without storage for a while, and then goes on
// with a member that has come back.
func nodeKills(ctx context.Context, d *driver) (string, error) {
	if err := d.namespace(ctx, crashNamespace); err != nil {
		return "", err
	}
	for _, a := range d.apiservers {
		if err := until(ctx, 30*time.Second, a.file+" has the namespace", func(ctx context.Context) error {
			_, err := a.client.CoreV1().Namespaces().Get(ctx, crashNamespace, metav1.GetOptions{})
			return err
		}); err != nil {
			return "", err
		}
	}
	revision, err := d.revision(ctx)
	if err != nil {
		return "", err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	n := &nodes{driver: d, random: rand.New(rand.NewPCG(d.options.seed, 1<<32))}
	defer func() {
		for _, client := range n.members {
			client.Close()
		}
	}()
	for i, m := range d.storage {
		client, err := d.etcdClient(m)
		if err != nil {
			return "", err
		}
		n.members = append(n.members, client)
		a := d.apiservers[i]
		n.observers = append(n.observers, a.observe(watching), observeStorage(watching, m.file, client, revision))
		factory := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithNamespace(crashNamespace))
		n.informers = append(n.informers, factory.Core().V1().ConfigMaps().Informer())
		factory.Start(watching.Done())
	}
	n.load = startLoad(ctx, 3*len(d.apiservers), d.apiservers, d.options.seed)
	defer n.load.cancel()

	var report []string
	for round := range d.options.rounds {
		facts, err := n.kill(ctx, round)
		if err = errors.Join(n.load.failed(), err); err != nil {
			return "", fmt.Errorf("round %d: %w", round+1, err)
		}
		report = append(report, facts)
	}
	if err := n.load.end(ctx); err != nil {
		return "", err
	}
	if err := n.agree(ctx); err != nil {
		return "", err
	}
	anew := 0
	for _, o := range n.observers {
		anew += len(o.gaps)
	}
	return fmt.Sprintf("others answer and the node is back after: %s; %s; %d objects and %d revisions in %d watches and %d informers; "+
		"watches of apiservers began anew %d times", strings.Join(report, ", "), n.load.record, len(n.load.record.objects),
		len(n.load.record.writes), len(n.observers), len(n.informers), anew), nil
}

// kill ends a node's storage: the writer's in every other round, else that of any node. It returns the times
// to the next write that each other apiserver answers, and from the new start to one of the node's own.
func (n *nodes) kill(ctx context.Context, round int) (string, error) {
	target, err := n.writer(ctx)
	if err != nil {
		return "", err
	}
	is := "the writer"
	if round%2 == 1 {
		is = "any"
		target = n.storage[n.random.IntN(len(n.storage))]
	}
	at := slices.Index(n.storage, target)
	nats := child(target.pid(), "nats-server")
	kill := killMachine
	if n.options.backend == "etcd" {
		kill = killProcess
	}
	if err := kill(target); err != nil {
		return "", err
	}
	began := time.Now()
	for i, a := range n.apiservers {
		if i != at {
			if err := a.writesAgain(ctx, round); err != nil {
				return "", err
			}
		}
	}
	answered := time.Since(began)
	// History that the node must catch up with.
	for i, a := range n.apiservers {
		if i != at {
			if err := n.load.more(ctx, a, 50); err != nil {
				return "", err
			}
		}
	}

	began = time.Now()
	if err := n.startMember(target); err != nil {
		return "", err
	}
	if err := n.memberReady(ctx, target); err != nil {
		return "", err
	}
	if nats != 0 && !gone(nats) {
		return "", fmt.Errorf("the nats-server of before (pid %d) is still there", nats)
	}
	own := n.apiservers[at]
	if err := own.writesAgain(ctx, round); err != nil {
		return "", err
	}
	back := time.Since(began)
	if err := n.load.more(ctx, own, 20); err != nil {
		return "", err
	}
	for _, a := range n.apiservers {
		if err := until(ctx, 30*time.Second, a.file+" calls itself ready", a.ready); err != nil {
			return "", err
		}
	}
	fmt.Printf("    round %d: %s (%s), %.1f s and %.1f s; %s\n", round+1, target.name, is, answered.Seconds(), back.Seconds(),
		n.load.record)
	return fmt.Sprintf("%.1f s and %.1f s", answered.Seconds(), back.Seconds()), n.allUnharmed()
}

// agree compares what was answered with all lists of each apiserver, each informer, each watch, and the range
// and the hash of each member.
func (n *nodes) agree(ctx context.Context) error {
	objects := n.load.record.objects
	for i, a := range n.apiservers {
		if err := a.verify(ctx, crashNamespace, objects); err != nil {
			return fmt.Errorf("%s: %w", a.file, err)
		}
		if err := verifyStored(ctx, n.members[i], crashNamespace, objects); err != nil {
			return fmt.Errorf("%s: %w", n.storage[i].file, err)
		}
		if err := until(ctx, 60*time.Second, "the informer of "+a.file+" holds what was written", func(context.Context) error {
			got, err := held(n.informers[i])
			if err != nil {
				return err
			}
			return objects.differs(got)
		}); err != nil {
			return err
		}
	}
	for _, observer := range n.observers {
		if err := until(ctx, 60*time.Second, "all is seen", func(context.Context) error { return observer.complete(n.load.record) }); err != nil {
			return err
		}
	}
	return n.hashes(ctx)
}

// hashes compares the members' hashes of all revisions up to one.
func (n *nodes) hashes(ctx context.Context) error {
	return until(ctx, 30*time.Second, "all members have one hash", func(ctx context.Context) error {
		revision, err := n.revision(ctx)
		if err != nil {
			return err
		}
		hashes := map[uint32]bool{}
		for i, m := range n.storage {
			// A linearizable read first: the member may be behind the revision else.
			if _, err := n.members[i].Get(ctx, "health"); err != nil {
				return err
			}
			answer, err := n.members[i].HashKV(ctx, n.clientURL(m), revision)
			if err != nil {
				return err
			}
			hashes[answer.Hash] = true
		}
		// A compaction that comes between makes them differ for a moment.
		if len(hashes) > 1 {
			return fmt.Errorf("%d hashes of revision %d", len(hashes), revision)
		}
		return nil
	})
}

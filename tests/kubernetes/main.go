// Drives an unmodified kube-apiserver, with jetway or etcd as its storage, over the API of Kubernetes, and
// compares what it answers with what the driver knows it wrote.
//
// Run with BACKEND=etcd it checks the driver itself: whatever fails there is the driver's fault.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

const (
	// Short, to see both happen, but not below 20 s, where the apiserver gives each Event a lease of its own;
	// long enough for the steps that read history to be done within one interval.
	eventTTL           = 20 * time.Second
	compactionInterval = 30 * time.Second
)

type options struct {
	backend     string
	bin         string
	etcd        string
	jetway      string
	natsServer  string
	jetwayFlags []string
	kubeadm     bool
	migrate     bool
	members     int
	apiservers  int
	rounds      int
	seed        uint64
	objects     int
	soak        time.Duration
	only        string
	keep        bool
}

func (o options) program(name string) string { return filepath.Join(o.bin, name) }

// step is one thing to show. It returns a sentence of facts for the report.
type step struct {
	name string
	run  func(context.Context, *driver) (string, error)
}

var steps = []step{
	{"namespaces", namespaces},
	{"2,000 objects", bulk},
	{"paged lists", pagedLists},
	{"exact lists", exactLists},
	{"watches", watches},
	{"watch-list", watchList},
	{"many watches", manyWatches},
	{"conflicts", conflicts},
	{"server-side apply", serverSideApply},
	{"custom resources", customResources},
	{"nodes and leases", nodesAndLeases},
	{"finalizers", finalizers},
	{"garbage collection", garbageCollection},
	{"namespace deletion", namespaceDeletion},
	{"kubectl", kubectl},
	{"events with a TTL", eventsWithTTL},
	{"compaction", compaction},
	{"crashes under load", crashes},
	{"a new apiserver", newAPIServer},
}

// The step of a move from etcd to jetway.
var moveSteps = []step{{"a move to jetway", moved}}

// The steps of more than one apiserver.
var nodeSteps = []step{{"kills of nodes", nodeKills}}

func main() {
	var o options
	var jetwayFlags string
	flag.StringVar(&o.backend, "backend", "jetway", "what stores the data: jetway or etcd")
	flag.StringVar(&o.bin, "bin", "target/peers/bin", "folder of kube-apiserver, kube-controller-manager and kubectl")
	flag.StringVar(&o.etcd, "etcd", "target/peers/bin/etcd", "path of etcd")
	flag.StringVar(&o.jetway, "jetway", "target/release/jetway", "path of jetway")
	flag.StringVar(&o.natsServer, "nats-server", "target/peers/bin/nats-server", "path of the nats-server that jetway embeds")
	flag.StringVar(&jetwayFlags, "jetway-flags", "", "more flags for jetway, separated by spaces")
	flag.BoolVar(&o.kubeadm, "kubeadm", false, "start the storage with kubeadm's command line for etcd, over mutual TLS, jetway by a link named etcd")
	flag.BoolVar(&o.migrate, "migrate", false, "with --backend etcd: move to jetway under a load, and restart the apiserver on it; its informers must not list anew")
	flag.IntVar(&o.members, "members", 1, "number of members of the storage: 1, or 3 to 5 that form a cluster, of which the crashes end one at a time")
	flag.IntVar(&o.apiservers, "apiservers", 1, "number of kube-apiservers: 1 over all members, or as many as members, each on its own, to kill one node's storage after the other")
	flag.IntVar(&o.rounds, "rounds", 5, "number of kills with more than one kube-apiserver")
	flag.Uint64Var(&o.seed, "seed", 0, "choose the same writes and nodes as the run that printed this seed (0: any)")
	flag.IntVar(&o.objects, "objects", 2000, "number of ConfigMaps of the large lists")
	flag.DurationVar(&o.soak, "soak", 0, "repeat the crashes for so long; from 8m on the apiserver's own consistency check runs too")
	flag.StringVar(&o.only, "only", "", "run the steps whose name holds this, and those that they need")
	flag.BoolVar(&o.keep, "keep", false, "keep data and logs when all is well too")
	flag.Parse()
	o.jetwayFlags = strings.Fields(jetwayFlags)
	if o.members != 1 && (o.members < 3 || o.members > 5) {
		fmt.Printf("FAILED: --members %d: give 1, or 3 to 5; with 2 the crash of one ends the storage\n", o.members)
		os.Exit(1)
	}
	if o.apiservers != 1 && o.apiservers != o.members {
		fmt.Printf("FAILED: --apiservers %d: give 1, or the number of --members (%d)\n", o.apiservers, o.members)
		os.Exit(1)
	}
	if o.migrate && (o.backend != "etcd" || o.members != 1 || o.kubeadm) {
		fmt.Println("FAILED: --migrate: give --backend etcd (BACKEND=etcd), one member, and no --kubeadm")
		os.Exit(1)
	}
	if o.rounds < 1 {
		fmt.Printf("FAILED: --rounds %d: give 1 or more\n", o.rounds)
		os.Exit(1)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}

	for _, path := range []*string{&o.bin, &o.etcd, &o.jetway, &o.natsServer} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			fmt.Printf("FAILED: %v\n", err)
			os.Exit(1)
		}
		*path = absolute
	}

	// The messages of client-go belong into a log, not between the lines of the report.
	klog.LogToStderr(false)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Printf("FAILED: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "jetway-kubernetes-")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "driver.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	klog.SetOutput(log)
	defer func() {
		if err == nil && !o.keep {
			err = os.RemoveAll(dir)
		} else {
			fmt.Printf("data and logs: %s\n", dir)
		}
	}()

	began := time.Now()
	stack, err := newStack(o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stack.stop()) }()
	if err := stack.startStorage(); err != nil {
		return err
	}
	if err := stack.storageReady(ctx); err != nil {
		return err
	}
	storageReady := time.Since(began)
	if err := stack.startControlPlane(ctx); err != nil {
		return err
	}
	version, err := stack.client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	fmt.Printf("%d x %s ready after %.1f s, %d x kube-apiserver %s %.1f s later, --seed %d\n", o.members, o.backend,
		storageReady.Seconds(), o.apiservers, version, (time.Since(began) - storageReady).Seconds(), o.seed)

	d := &driver{stack: stack}
	if d.firstRevision, err = d.revision(ctx); err != nil {
		return err
	}
	passed, failed := 0, 0
	chosen := steps
	if o.apiservers > 1 {
		chosen = nodeSteps
	}
	if o.migrate {
		chosen = moveSteps
	}
	for i, step := range chosen {
		needed := slices.Contains([]string{"namespaces", "2,000 objects"}, step.name)
		if !needed && !strings.Contains(step.name, o.only) {
			continue
		}
		stepBegan := time.Now()
		facts, err := step.run(ctx, d)
		if err == nil {
			err = stack.allUnharmed()
		}
		outcome := "ok"
		if err != nil {
			outcome, facts = "FAILED", err.Error()
			failed++
		} else {
			passed++
		}
		fmt.Printf("%2d  %-20s %-6s %6.1f s  %s\n", i+1, step.name, outcome, time.Since(stepBegan).Seconds(), facts)
		if ctx.Err() != nil || err != nil && (needed || !stack.apiserver.running()) {
			break
		}
	}
	fmt.Printf("in %.0f s, %d x kube-apiserver on %d x %s\n%d passed, %d failed\n", time.Since(began).Seconds(), o.apiservers, o.members, o.backend, passed, failed)
	if failed > 0 {
		return fmt.Errorf("%d of the steps", failed)
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// crash is one way to end a member of the storage, and how long it stays away.
type crash struct {
	what string
	away time.Duration
	// The member to end; the only one if nil.
	of   func(*stack, context.Context) (*member, error)
	kill func(*member) error
}

func killProcess(m *member) error {
	m.kill()
	return nil
}

// killNATS ends the nats-server, of which jetway starts another one.
func killNATS(m *member) error {
	nats, err := natsOf(m)
	if err != nil {
		return err
	}
	return nats.Kill()
}

func natsOf(m *member) (*os.Process, error) {
	nats := child(m.pid(), "nats-server")
	if nats == 0 {
		return nil, errors.New("jetway has no nats-server to kill")
	}
	return os.FindProcess(nats)
}

func killBoth(m *member) error {
	if err := killNATS(m); err != nil {
		return err
	}
	return killProcess(m)
}

// killMachine ends both at once. A stopped nats-server does not see that jetway ends, so it hands nothing
// over.
func killMachine(m *member) error {
	nats, err := natsOf(m)
	if err != nil {
		return err
	}
	if err := nats.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	m.kill()
	return nats.Kill()
}

// ways are the crashes of a run, in their order.
func ways(o options) []crash {
	switch {
	case o.members > 1 && o.backend == "etcd":
		return []crash{
			{"writer", 6 * time.Second, (*stack).writer, killProcess}, {"follower", 6 * time.Second, (*stack).follower, killProcess},
			{"writer again", 0, (*stack).writer, killProcess},
		}
	case o.members > 1:
		return []crash{
			{"machine of the writer", 6 * time.Second, (*stack).writer, killMachine},
			{"machine of a follower", 6 * time.Second, (*stack).follower, killMachine},
			{"writer's jetway", 0, (*stack).writer, killProcess},
			{"writer's nats-server", 0, (*stack).writer, killNATS},
			{"machine of the writer again", 12 * time.Second, (*stack).writer, killMachine},
		}
	case o.backend == "etcd":
		return []crash{{"etcd", 0, nil, killProcess}, {"etcd, away", 6 * time.Second, nil, killProcess}, {"etcd again", 0, nil, killProcess}}
	default:
		return []crash{
			{"jetway", 0, nil, killProcess}, {"nats-server", 0, nil, killNATS}, {"both", 0, nil, killBoth},
			{"jetway, away", 6 * time.Second, nil, killProcess}, {"jetway again", 0, nil, killProcess},
		}
	}
}

// crashes ends the storage under load, and compares the apiserver's later answers with those before.
func crashes(ctx context.Context, d *driver) (string, error) {
	rounds := ways(d.options)
	if err := d.namespace(ctx, crashNamespace); err != nil {
		return "", err
	}
	// Their leases must end over the crashes.
	const mortal = 100
	if err := parallel(8, mortal, func(i int) error {
		_, err := d.client.CoreV1().Events(crashNamespace).Create(ctx, event(crashNamespace, fmt.Sprintf("mortal-%d", i)), metav1.CreateOptions{})
		return err
	}); err != nil {
		return "", err
	}
	revision, err := d.revision(ctx)
	if err != nil {
		return "", err
	}

	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	observers := []*observer{d.observe(watching), observeStorage(watching, "the storage", d.etcd, revision)}
	load := startLoad(ctx, 8, d.apiservers, d.options.seed)
	defer load.cancel()

	var report []string
	began := time.Now()
	for round := 0; ; round++ {
		if round >= len(rounds) && time.Since(began) >= d.options.soak {
			break
		}
		crash := rounds[round%len(rounds)]
		took, err := d.crashOnce(ctx, crash, round)
		if err != nil {
			return "", fmt.Errorf("crash %d (%s): %w", round+1, crash.what, err)
		}
		if round < len(rounds) {
			report = append(report, fmt.Sprintf("%s %.1f s", crash.what, took.Seconds()))
		}
		if err := load.failed(); err != nil {
			return "", fmt.Errorf("crash %d (%s): %w", round+1, crash.what, err)
		}
	}
	if err := load.end(ctx); err != nil {
		return "", err
	}

	if err := d.verify(ctx, crashNamespace, load.record.objects); err != nil {
		return "", err
	}
	if err := d.verify(ctx, d.bulk.namespace, d.bulk.objects); err != nil {
		return "", fmt.Errorf("what was there before the crashes: %w", err)
	}
	for _, observer := range observers {
		if err := until(ctx, 15*time.Second, "all is seen", func(context.Context) error { return observer.complete(load.record) }); err != nil {
			return "", err
		}
	}
	if err := until(ctx, eventTTL+30*time.Second, "the events of before are gone", func(ctx context.Context) error {
		left, err := d.keys(ctx, "/registry/events/"+crashNamespace+"/")
		if err == nil && left > 0 {
			err = fmt.Errorf("%d are left", left)
		}
		return err
	}); err != nil {
		return "", err
	}
	checks, err := d.consistencyChecks(ctx)
	if err != nil {
		return "", err
	}
	facts := fmt.Sprintf("back after: %s; %s", strings.Join(report, ", "), load.record)
	if gaps := len(observers[0].gaps); gaps > 0 {
		facts += fmt.Sprintf("; the API watch began anew %d times", gaps)
	}
	if checks > 0 {
		facts += fmt.Sprintf("; %d checks by the apiserver of its caches", checks)
	}
	return facts, nil
}

// crashOnce ends a member under load and returns how long it took to the next answered write. In a cluster
// the others must answer, so the time runs from the crash; else it runs from the new start.
func (d *driver) crashOnce(ctx context.Context, crash crash, round int) (time.Duration, error) {
	select {
	case <-time.After(4 * time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	target := d.storage[0]
	if crash.of != nil {
		var err error
		if target, err = crash.of(d.stack, ctx); err != nil {
			return 0, err
		}
	}
	nats := child(target.pid(), "nats-server")
	if err := crash.kill(target); err != nil {
		return 0, err
	}
	began := time.Now()
	var took time.Duration
	if len(d.storage) > 1 {
		if err := d.writesAgain(ctx, round); err != nil {
			return 0, err
		}
		took = time.Since(began)
	}
	time.Sleep(crash.away - time.Since(began))
	if len(d.storage) == 1 {
		began = time.Now()
	}
	if !target.running() {
		if err := d.startMember(target); err != nil {
			return 0, err
		}
	}
	err := d.writesAgain(ctx, round)
	if len(d.storage) == 1 {
		took = time.Since(began)
	}
	if err != nil && !target.running() {
		err = fmt.Errorf("%s has ended: %v", target.file, target.err)
	}
	if err == nil {
		err = d.memberReady(ctx, target)
	}
	if err == nil && nats != 0 && !gone(nats) {
		err = fmt.Errorf("the nats-server of before (pid %d) is still there", nats)
	}
	if err == nil {
		err = until(ctx, 30*time.Second, "the apiserver calls itself ready", d.ready)
	}
	if err == nil {
		err = d.allUnharmed()
	}
	return took, err
}

// writesAgain waits until the apiserver answers a write.
func (a *apiserver) writesAgain(ctx context.Context, round int) error {
	return until(ctx, 90*time.Second, a.file+" answers a write again", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		object := configMap("canary", strconv.Itoa(round))
		_, err := a.client.CoreV1().ConfigMaps("default").Patch(short, "canary", types.ApplyPatchType,
			encode(object), metav1.PatchOptions{FieldManager: "driver"})
		return err
	})
}

func encode(object *corev1.ConfigMap) []byte {
	object.APIVersion, object.Kind = "v1", "ConfigMap"
	text, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	return text
}

// consistencyChecks counts how often the apiserver compared a cache of its with the storage; each must have
// succeeded.
func (d *driver) consistencyChecks(ctx context.Context) (int, error) {
	text, err := d.client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "apiserver_storage_consistency_checks_total{") {
			continue
		}
		count, _ := strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1:])
		if strings.Contains(line, `status="failure"`) && count > 0 {
			return 0, errors.New(line)
		}
		total += count
	}
	return total, nil
}

// newAPIServer replaces the apiserver by one with empty caches, which must see the same.
func newAPIServer(ctx context.Context, d *driver) (string, error) {
	d.kill()
	began := time.Now()
	if err := d.startAPIServer(ctx, d.apiserver); err != nil {
		return "", err
	}
	return fmt.Sprintf("ready after %.1f s", time.Since(began).Seconds()), d.verify(ctx, d.bulk.namespace, d.bulk.objects)
}

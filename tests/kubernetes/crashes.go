package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Kills the storage under load, and compares the apiserver's later answers with those before.
//
// Each worker owns its objects, so it knows of each what it must be: what was answered last, or, while a
// write has failed without an answer, what that write would have made of it. A name is used for one life
// only. Each write names the version that it replaces, so of the writes without an answer at most one can
// have landed, and none can land after a later one was answered.
const crashNamespace = "crashes"

// record is all that was answered to the workers of one run.
type record struct {
	lock sync.Mutex
	// The state of each object whose life goes on.
	objects model
	// The names whose deletion was answered.
	deleted map[string]bool
	// The answered creations and updates: name by revision. Each must be seen by the watches.
	writes map[int64]string

	answered, unanswered, landed atomic.Int64
}

// worker is one client with objects of its own.
type worker struct {
	*driver
	record *record
	id     int
	births int
	count  int
	// The living, by name.
	objects map[string]*life
	names   []string
}

// life is one object as its worker knows it.
type life struct {
	name string
	// Answered last; nil when there is no object yet.
	known *state
	// The value that a write without an answer would have made, nil for a deletion.
	pending []*state
}

func (w *worker) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := w.step(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) step(ctx context.Context) error {
	var l *life
	if len(w.names) < 30 || rand.IntN(10) == 0 {
		w.births++
		l = &life{name: fmt.Sprintf("w%d-%05d", w.id, w.births)}
		w.objects[l.name] = l
		w.names = append(w.names, l.name)
	} else {
		l = w.objects[w.names[rand.IntN(len(w.names))]]
	}
	if len(l.pending) > 0 {
		if err := w.settle(ctx, l); err != nil {
			return err
		}
		if l = w.objects[l.name]; l == nil {
			return nil
		}
	}

	w.count++
	n := fmt.Sprintf("%d.%d", w.id, w.count)
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// Each request once: client-go must not try again what may have happened.
	client := w.client.CoreV1().RESTClient()
	object := configMap(l.name, n)
	var err error
	next := &state{n: n}
	switch {
	case l.known == nil:
		err = client.Post().MaxRetries(0).Namespace(crashNamespace).Resource("configmaps").Body(object).Do(short).Into(object)
	case len(w.names) > 40 || rand.IntN(5) == 0:
		next = nil
		options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &l.known.resourceVersion}}
		err = client.Delete().MaxRetries(0).Namespace(crashNamespace).Resource("configmaps").Name(l.name).Body(options).Do(short).Error()
	default:
		object.ResourceVersion = l.known.resourceVersion
		err = client.Put().MaxRetries(0).Namespace(crashNamespace).Resource("configmaps").Name(l.name).Body(object).Do(short).Into(object)
	}
	if err == nil {
		w.record.answered.Add(1)
		if next != nil {
			*next = stateOf(object)
		}
		w.know(l, next)
		return nil
	}
	refused := apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)
	if refused && len(l.pending) == 0 {
		return fmt.Errorf("%s: a write to its current version was refused: %w", l.name, err)
	}
	if !refused {
		w.record.unanswered.Add(1)
		l.pending = append(l.pending, next)
	}
	return nil
}

// settle reads an object with writes that nobody answered, once the apiserver answers again.
func (w *worker) settle(ctx context.Context, l *life) error {
	var object *corev1.ConfigMap
	if err := until(ctx, 2*time.Minute, "a read of "+l.name, func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		var err error
		object, err = w.client.CoreV1().ConfigMaps(crashNamespace).Get(short, l.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			object, err = nil, nil
		}
		return err
	}); err != nil {
		return err
	}
	if object == nil {
		if l.known == nil {
			return nil
		}
		for _, pending := range l.pending {
			if pending == nil {
				w.record.landed.Add(1)
				w.know(l, nil)
				return nil
			}
		}
		return fmt.Errorf("%s is missing: it was answered as %v, and no deletion was sent", l.name, *l.known)
	}
	got := stateOf(object)
	if l.known != nil && got == *l.known {
		return nil
	}
	for _, pending := range l.pending {
		if pending != nil && pending.n == got.n {
			w.record.landed.Add(1)
			w.know(l, &got)
			return nil
		}
	}
	return fmt.Errorf("%s is %v: neither what was answered nor what was asked for since", l.name, got)
}

// know takes a state as certain; nil is the end of the object.
func (w *worker) know(l *life, state *state) {
	l.known, l.pending = state, nil
	w.record.lock.Lock()
	defer w.record.lock.Unlock()
	if state != nil {
		w.record.objects[l.name] = *state
		revision, _ := strconv.ParseInt(state.resourceVersion, 10, 64)
		w.record.writes[revision] = l.name
		return
	}
	delete(w.record.objects, l.name)
	w.record.deleted[l.name] = true
	delete(w.objects, l.name)
	for i, name := range w.names {
		if name == l.name {
			w.names = append(w.names[:i], w.names[i+1:]...)
			break
		}
	}
}

// observer is a watch over all crashes, and what it has made of the events.
type observer struct {
	name string
	lock sync.Mutex
	// The objects as the events tell, and each revision that was seen.
	objects model
	seen    map[int64]string
	last    int64
	// The revision of its first list: what was written before is in that.
	from int64
	// How often it had to begin anew because its revision was gone.
	gaps int
	err  error
}

func newObserver(name string) *observer {
	return &observer{name: name, objects: model{}, seen: map[int64]string{}}
}

func (o *observer) take(name string, revision int64, now *state) error {
	o.lock.Lock()
	defer o.lock.Unlock()
	if revision <= o.last {
		return fmt.Errorf("the watch of %s: %s at revision %d after revision %d", o.name, name, revision, o.last)
	}
	o.last = revision
	o.seen[revision] = name
	if now == nil {
		delete(o.objects, name)
	} else {
		o.objects[name] = *now
	}
	return nil
}

// watchAPI follows the namespace as a controller does: from the last revision seen, and by a new list if that
// is gone.
func (o *observer) watchAPI(ctx context.Context, d *driver) error {
	objects := d.client.CoreV1().ConfigMaps(crashNamespace)
	revision := ""
	for ctx.Err() == nil {
		if revision == "" {
			list, err := objects.List(ctx, metav1.ListOptions{})
			if err != nil {
				time.Sleep(100 * time.Millisecond)
				continue
			}
			revision = list.ResourceVersion
			o.lock.Lock()
			o.objects, o.last = modelOf(list.Items), revisionOf(list)
			if o.from == 0 {
				o.from = o.last
			}
			o.lock.Unlock()
		}
		w, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: revision, AllowWatchBookmarks: true})
		for err == nil {
			event, open := <-w.ResultChan()
			if !open {
				break
			}
			if event.Type == watch.Error {
				err = apierrors.FromObject(event.Object)
				break
			}
			object := event.Object.(*corev1.ConfigMap)
			revision = object.ResourceVersion
			now := stateOf(object)
			switch event.Type {
			case watch.Bookmark:
			case watch.Deleted:
				err = o.take(object.Name, revisionOf(object), nil)
			default:
				err = o.take(object.Name, revisionOf(object), &now)
			}
			if err != nil {
				w.Stop()
				return err
			}
		}
		if w != nil {
			w.Stop()
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			o.lock.Lock()
			o.gaps++
			o.lock.Unlock()
			revision = ""
		} else if err != nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// watchStorage follows the same keys at the storage endpoint, by one watch that the etcd client resumes by
// itself, and checks that each event has the object before it.
func (o *observer) watchStorage(ctx context.Context, d *driver, revision int64) error {
	prefix := "/registry/configmaps/" + crashNamespace + "/"
	versions := map[string]int64{}
	for answer := range d.etcd.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(revision+1)) {
		if err := answer.Err(); err != nil {
			return fmt.Errorf("the watch of the storage: %w", err)
		}
		for _, event := range answer.Events {
			name := strings.TrimPrefix(string(event.Kv.Key), prefix)
			before := int64(0)
			if event.PrevKv != nil {
				before = event.PrevKv.ModRevision
			}
			if before != versions[name] {
				return fmt.Errorf("the watch of the storage: %s at revision %d was at %d before, and its event says %d",
					name, event.Kv.ModRevision, versions[name], before)
			}
			var now *state
			versions[name] = 0
			if event.Type == clientv3.EventTypePut {
				versions[name] = event.Kv.ModRevision
				now = &state{resourceVersion: strconv.FormatInt(event.Kv.ModRevision, 10)}
			}
			if err := o.take(name, event.Kv.ModRevision, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// complete checks that an observer has seen all that was answered.
func (o *observer) complete(r *record) error {
	o.lock.Lock()
	defer o.lock.Unlock()
	if o.err != nil {
		return o.err
	}
	want := model{}
	for name, s := range r.objects {
		if o.name == "the storage" {
			// Values are protobuf there, and not read.
			s.n = ""
		}
		want[name] = s
	}
	if err := want.differs(o.objects); err != nil {
		return fmt.Errorf("by the watch of %s: %w", o.name, err)
	}
	if o.gaps > 0 {
		return nil
	}
	for revision, name := range r.writes {
		if revision > o.from && o.seen[revision] != name {
			return fmt.Errorf("the watch of %s did not tell of %s at revision %d", o.name, name, revision)
		}
	}
	return nil
}

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

	r := &record{objects: model{}, deleted: map[string]bool{}, writes: map[int64]string{}}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	api, storage := newObserver("the apiserver"), newObserver("the storage")
	follow := func(o *observer, watch func() error) {
		err := watch()
		o.lock.Lock()
		defer o.lock.Unlock()
		if watching.Err() == nil {
			o.err = err
		}
	}
	go follow(api, func() error { return api.watchAPI(watching, d) })
	go follow(storage, func() error { return storage.watchStorage(watching, d, revision) })

	loading, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	var failures []error
	var group sync.WaitGroup
	workers := make([]*worker, 8)
	for i := range workers {
		workers[i] = &worker{driver: d, record: r, id: i, objects: map[string]*life{}}
		group.Go(func() {
			if err := workers[i].run(loading); err != nil {
				r.lock.Lock()
				failures = append(failures, err)
				r.lock.Unlock()
			}
		})
	}

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
		r.lock.Lock()
		failed := errors.Join(failures...)
		r.lock.Unlock()
		if failed != nil {
			return "", fmt.Errorf("crash %d (%s): %w", round+1, crash.what, failed)
		}
	}
	stopLoad()
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		return "", err
	}
	for _, w := range workers {
		for _, name := range append([]string(nil), w.names...) {
			if l := w.objects[name]; len(l.pending) > 0 {
				if err := w.settle(ctx, l); err != nil {
					return "", err
				}
			}
		}
	}

	if err := d.verify(ctx, crashNamespace, r.objects); err != nil {
		return "", err
	}
	if err := d.verify(ctx, d.bulk.namespace, d.bulk.objects); err != nil {
		return "", fmt.Errorf("what was there before the crashes: %w", err)
	}
	for _, observer := range []*observer{api, storage} {
		if err := until(ctx, 15*time.Second, "all is seen", func(context.Context) error { return observer.complete(r) }); err != nil {
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
	facts := fmt.Sprintf("back after: %s; %d writes answered, %d not (%d of them landed)", strings.Join(report, ", "),
		r.answered.Load(), r.unanswered.Load(), r.landed.Load())
	if api.gaps > 0 {
		facts += fmt.Sprintf("; the API watch began anew %d times", api.gaps)
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
		err = until(ctx, 30*time.Second, "the apiserver calls itself ready", d.apiserverReady)
	}
	if err == nil {
		err = d.unharmed()
	}
	return took, err
}

// writesAgain waits until the apiserver answers a write.
func (d *driver) writesAgain(ctx context.Context, round int) error {
	return until(ctx, 90*time.Second, "a write is answered again", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		object := configMap("canary", strconv.Itoa(round))
		_, err := d.client.CoreV1().ConfigMaps("space-0").Patch(short, "canary", types.ApplyPatchType,
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
	d.apiserver.kill()
	began := time.Now()
	if err := d.startAPIServer(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("ready after %.1f s", time.Since(began).Seconds()), d.verify(ctx, d.bulk.namespace, d.bulk.objects)
}

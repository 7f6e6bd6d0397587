package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The namespace of the load.
const crashNamespace = "crashes"

// load is the workers of one run.
//
// Each worker owns its objects, so it knows of each what it must be: what was answered last, or, while a
// write has failed without an answer, what that write would have made of it. A name is used for one life
// only. Each write names the version that it replaces, so of the writes without an answer at most one can
// have landed, and none can land after a later one was answered.
type load struct {
	record   *record
	workers  []*worker
	cancel   context.CancelFunc
	group    sync.WaitGroup
	lock     sync.Mutex
	failures []error
}

// startLoad starts workers. Each of their requests goes to any of the apiservers.
func startLoad(ctx context.Context, count int, servers []*apiserver, seed uint64) *load {
	l := &load{record: &record{objects: model{}, writes: map[int64]string{}}}
	ctx, l.cancel = context.WithCancel(ctx)
	for i := range count {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		w := &worker{servers: servers, at: i % len(servers), patience: 10 * time.Second, random: random, record: l.record, id: i,
			objects: map[string]*life{}}
		if len(servers) > 1 {
			w.patience = 3 * time.Second
		}
		l.workers = append(l.workers, w)
		l.group.Go(func() {
			if err := w.run(ctx); err != nil {
				l.lock.Lock()
				defer l.lock.Unlock()
				l.failures = append(l.failures, err)
			}
		})
	}
	return l
}

// failed returns what the workers have found wrong until now.
func (l *load) failed() error {
	l.lock.Lock()
	defer l.lock.Unlock()
	return errors.Join(l.failures...)
}

// more waits until an apiserver has answered so many more writes.
func (l *load) more(ctx context.Context, server *apiserver, writes int64) error {
	enough := server.answered.Load() + writes
	return until(ctx, 2*time.Minute, fmt.Sprintf("%d more writes of %s", writes, server.file), func(context.Context) error {
		if left := enough - server.answered.Load(); left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return nil
	})
}

// end stops the workers and finds out what became of the writes without an answer.
func (l *load) end(ctx context.Context) error {
	l.cancel()
	l.group.Wait()
	if err := l.failed(); err != nil {
		return err
	}
	for _, w := range l.workers {
		for _, name := range slices.Clone(w.names) {
			if of := w.objects[name]; len(of.pending) > 0 {
				if err := w.settle(ctx, of); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// record is all that was answered to the workers of one run.
type record struct {
	lock sync.Mutex
	// The state of each object whose life goes on.
	objects model
	// The answered creations and updates: name by revision. Each must be seen by the watches.
	writes map[int64]string

	answered, unanswered, landed, reads atomic.Int64
}

func (r *record) String() string {
	return fmt.Sprintf("%d writes answered, %d not (%d of them landed), %d reads compared",
		r.answered.Load(), r.unanswered.Load(), r.landed.Load(), r.reads.Load())
}

// worker is one client with objects of its own.
type worker struct {
	servers []*apiserver
	// The place of the server that it asks now.
	at int
	// How long it waits for the answer to a write.
	patience time.Duration
	random   *rand.Rand
	record   *record
	id       int
	births   int
	count    int
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
	// A creation of it has no answer. It could land behind a deletion, so there is none.
	stays bool
}

func (w *worker) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := w.step(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// server is the apiserver of the next request. A worker stays with one for a while. It leaves one that does
// not answer, as a client behind a load balancer does.
func (w *worker) server() *apiserver {
	if w.random.IntN(5) == 0 {
		w.leave()
	}
	return w.servers[w.at]
}

func (w *worker) leave() { w.at = w.random.IntN(len(w.servers)) }

func (w *worker) step(ctx context.Context) error {
	var l *life
	if len(w.names) < 30 || w.random.IntN(10) == 0 {
		w.births++
		l = &life{name: fmt.Sprintf("w%d-%05d", w.id, w.births)}
		w.objects[l.name] = l
		w.names = append(w.names, l.name)
	} else {
		l = w.objects[w.names[w.random.IntN(len(w.names))]]
	}
	if len(l.pending) > 0 {
		if err := w.settle(ctx, l); err != nil {
			return err
		}
		if l = w.objects[l.name]; l == nil {
			return nil
		}
	} else if l.known != nil && w.random.IntN(3) == 0 {
		return w.read(ctx, l)
	}
	return w.write(ctx, l)
}

func (w *worker) write(ctx context.Context, l *life) error {
	w.count++
	n := fmt.Sprintf("%d.%d", w.id, w.count)
	short, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	// Each request once: client-go must not try again what may have happened.
	server := w.server()
	client := server.client.CoreV1().RESTClient()
	object := configMap(l.name, n)
	var err error
	next := &state{n: n}
	switch {
	case l.known == nil:
		err = client.Post().MaxRetries(0).Namespace(crashNamespace).Resource("configmaps").Body(object).Do(short).Into(object)
	case !l.stays && (len(w.names) > 40 || w.random.IntN(5) == 0):
		next = nil
		options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &l.known.resourceVersion}}
		err = client.Delete().MaxRetries(0).Namespace(crashNamespace).Resource("configmaps").Name(l.name).Body(options).Do(short).Error()
	default:
		object.ResourceVersion = l.known.resourceVersion
		err = client.Put().MaxRetries(0).Namespace(crashNamespace).Resource("configmaps").Name(l.name).Body(object).Do(short).Into(object)
	}
	if err == nil {
		w.record.answered.Add(1)
		server.answered.Add(1)
		if next != nil {
			*next = stateOf(object)
		}
		w.know(l, next)
		return nil
	}
	refused := apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)
	if refused && len(l.pending) == 0 {
		return fmt.Errorf("%s: %s refused a write to its current version: %w", l.name, server.file, err)
	}
	if !refused {
		w.leave()
		w.record.unanswered.Add(1)
		l.stays = l.stays || l.known == nil
		l.pending = append(l.pending, next)
	}
	return nil
}

// get reads an object through an apiserver; nil without an error means that there is none.
func (w *worker) get(ctx context.Context, server *apiserver, name string) (*corev1.ConfigMap, error) {
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	object, err := server.client.CoreV1().ConfigMaps(crashNamespace).Get(short, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return object, err
}

// read compares an object with what was answered of it, which may have been through another apiserver.
func (w *worker) read(ctx context.Context, l *life) error {
	server := w.server()
	object, err := w.get(ctx, server, l.name)
	switch {
	case err != nil:
		w.leave()
		return nil
	case object == nil:
		return fmt.Errorf("%s: %s has none, and it was answered as %v", l.name, server.file, *l.known)
	case stateOf(object) != *l.known:
		return fmt.Errorf("%s: %s has %v, and it was answered as %v", l.name, server.file, stateOf(object), *l.known)
	}
	w.record.reads.Add(1)
	return nil
}

// settle reads an object with writes that nobody answered, once an apiserver answers again.
func (w *worker) settle(ctx context.Context, l *life) error {
	var object *corev1.ConfigMap
	if err := until(ctx, 2*time.Minute, "a read of "+l.name, func(ctx context.Context) error {
		var err error
		object, err = w.get(ctx, w.server(), l.name)
		if err != nil {
			w.leave()
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
	delete(w.objects, l.name)
	w.names = slices.DeleteFunc(w.names, func(name string) bool { return name == l.name })
}

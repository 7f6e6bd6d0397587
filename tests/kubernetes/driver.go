package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// driver is the state that one step leaves for the next.
type driver struct {
	*stack
	// The namespace of the large lists and what the driver knows to be in it.
	bulk bulkModel
	// The revision before the first step: long compacted when the compaction step asks for it.
	firstRevision int64
	// A page token of an early list, to be used when its revision is compacted.
	earlyToken string
}

type bulkModel struct {
	namespace string
	objects   model
}

// model is what a namespace holds by the driver's own account: the name of each ConfigMap and its state.
type model map[string]state

type state struct {
	resourceVersion string
	// The number that the driver wrote last, in the key `n` of the data.
	n string
}

func stateOf(object *corev1.ConfigMap) state {
	return state{resourceVersion: object.ResourceVersion, n: object.Data["n"]}
}

func modelOf(objects []corev1.ConfigMap) model {
	m := model{}
	for i := range objects {
		m[objects[i].Name] = stateOf(&objects[i])
	}
	return m
}

// differs names the first few objects in which two models differ, nil when they are the same.
func (want model) differs(got model) error {
	var problems []string
	for name, state := range want {
		if other, there := got[name]; !there {
			problems = append(problems, fmt.Sprintf("%s %v is missing", name, state))
		} else if other != state {
			problems = append(problems, fmt.Sprintf("%s is %v and not %v", name, other, state))
		}
	}
	for name, state := range got {
		if _, there := want[name]; !there {
			problems = append(problems, fmt.Sprintf("%s %v should not be there", name, state))
		}
	}
	if len(problems) == 0 {
		return nil
	}
	slices.Sort(problems)
	return fmt.Errorf("%d of %d objects differ: %s", len(problems), len(want), strings.Join(problems[:min(4, len(problems))], "; "))
}

// verify compares a namespace with its model by all ways of reading it: a consistent list, a list from the
// cache of the apiserver, one at the exact revision, and a range of the storage endpoint itself.
func (d *driver) verify(ctx context.Context, namespace string, want model) error {
	if err := d.apiserver.verify(ctx, namespace, want); err != nil {
		return err
	}
	return verifyStored(ctx, d.etcd, namespace, want)
}

// verify compares a namespace with its model by all lists of an apiserver.
func (a *apiserver) verify(ctx context.Context, namespace string, want model) error {
	maps := a.client.CoreV1().ConfigMaps(namespace)
	consistent, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("consistent list: %w", err)
	}
	if err := want.differs(modelOf(consistent.Items)); err != nil {
		return fmt.Errorf("consistent list: %w", err)
	}
	for _, match := range []metav1.ResourceVersionMatch{metav1.ResourceVersionMatchNotOlderThan, metav1.ResourceVersionMatchExact} {
		list, err := maps.List(ctx, metav1.ListOptions{ResourceVersion: consistent.ResourceVersion, ResourceVersionMatch: match})
		if err != nil {
			return fmt.Errorf("list %s %s: %w", match, consistent.ResourceVersion, err)
		}
		if err := want.differs(modelOf(list.Items)); err != nil {
			return fmt.Errorf("list %s %s: %w", match, consistent.ResourceVersion, err)
		}
	}
	return nil
}

// verifyStored compares a namespace with its model by a range of the storage.
func verifyStored(ctx context.Context, etcd *clientv3.Client, namespace string, want model) error {
	prefix := "/registry/configmaps/" + namespace + "/"
	stored, err := etcd.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("range of the storage: %w", err)
	}
	got := model{}
	for _, kv := range stored.Kvs {
		name := strings.TrimPrefix(string(kv.Key), prefix)
		// The value is protobuf, so its part is believed; a wrong one would have shown in the lists.
		got[name] = state{resourceVersion: strconv.FormatInt(kv.ModRevision, 10), n: want[name].n}
	}
	if err := want.differs(got); err != nil {
		return fmt.Errorf("range of the storage: %w", err)
	}
	if stored.Count != int64(len(want)) || stored.More {
		return fmt.Errorf("range of the storage: count %d, more %t for %d keys", stored.Count, stored.More, len(want))
	}
	return nil
}

// revision is the storage's current one.
func (d *driver) revision(ctx context.Context) (int64, error) {
	answer, err := d.etcd.Get(ctx, "health")
	if err != nil {
		return 0, err
	}
	return answer.Header.Revision, nil
}

// keys counts what the storage holds below a prefix.
func (d *driver) keys(ctx context.Context, prefix string) (int64, error) {
	answer, err := d.etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return answer.Count, nil
}

func (d *driver) namespace(ctx context.Context, name string) error {
	_, err := d.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}},
		metav1.CreateOptions{})
	return err
}

func configMap(name, n string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": n}}
}

func (d *driver) create(ctx context.Context, namespace, name, n string) (*corev1.ConfigMap, error) {
	return d.client.CoreV1().ConfigMaps(namespace).Create(ctx, configMap(name, n), metav1.CreateOptions{})
}

// set writes `n` into an object that is there, whatever it held.
func (d *driver) set(ctx context.Context, namespace, name, n string) (*corev1.ConfigMap, error) {
	patch, err := json.Marshal(map[string]any{"data": map[string]string{"n": n}})
	if err != nil {
		return nil, err
	}
	return d.client.CoreV1().ConfigMaps(namespace).Patch(ctx, name, mergePatch, patch, metav1.PatchOptions{})
}

func (d *driver) delete(ctx context.Context, namespace, name string) error {
	return d.client.CoreV1().ConfigMaps(namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// changes applies a few writes of each kind to the bulk namespace and to its model: the first names in order
// are updated and deleted, so that a later page of a list has lost or changed something, and new names come
// at the end.
func (d *driver) changes(ctx context.Context, tag string) error {
	names := slices.Sorted(maps.Keys(d.bulk.objects))
	last := names[len(names)-6:]
	for i, name := range last {
		if i%2 == 0 {
			if err := d.delete(ctx, d.bulk.namespace, name); err != nil {
				return err
			}
			delete(d.bulk.objects, name)
			continue
		}
		object, err := d.set(ctx, d.bulk.namespace, name, tag)
		if err != nil {
			return err
		}
		d.bulk.objects[name] = stateOf(object)
	}
	for i := range 3 {
		object, err := d.create(ctx, d.bulk.namespace, fmt.Sprintf("m-%s-%d", tag, i), tag)
		if err != nil {
			return err
		}
		d.bulk.objects[object.Name] = stateOf(object)
	}
	return nil
}

// next takes the next event of a watch that is not a bookmark.
func next(ctx context.Context, w watch.Interface) (watch.Event, error) {
	for {
		event, err := nextOrBookmark(ctx, w)
		if err != nil || event.Type != watch.Bookmark {
			return event, err
		}
	}
}

func nextOrBookmark(ctx context.Context, w watch.Interface) (watch.Event, error) {
	select {
	case event, open := <-w.ResultChan():
		if !open {
			return event, errors.New("the watch ended")
		}
		if event.Type == watch.Error {
			return event, apierrors.FromObject(event.Object)
		}
		return event, nil
	case <-time.After(30 * time.Second):
		return watch.Event{}, errors.New("no event in 30 s")
	case <-ctx.Done():
		return watch.Event{}, ctx.Err()
	}
}

// parallel calls `work` for 0 up to n from a few goroutines, and returns the first error.
func parallel(workers, n int, work func(int) error) error {
	var (
		group sync.WaitGroup
		once  sync.Once
		first error
		queue = make(chan int)
		stop  = make(chan struct{})
	)
	for range workers {
		group.Go(func() {
			for i := range queue {
				if err := work(i); err != nil {
					once.Do(func() { first = err; close(stop) })
					return
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case queue <- i:
		case <-stop:
			break feed
		}
	}
	close(queue)
	group.Wait()
	return first
}

// expect turns an answer that should have been an error of a kind into an error.
func expect(what string, err error, is func(error) bool) error {
	if err == nil {
		return fmt.Errorf("%s: was accepted", what)
	}
	if !is(err) {
		return fmt.Errorf("%s: failed otherwise than it should: %w", what, err)
	}
	return nil
}

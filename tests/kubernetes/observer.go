package main

import (
	"context"
	"fmt"
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

// observer is a watch over all crashes, and what it has made of the events.
type observer struct {
	name        string
	isOfStorage bool
	lock        sync.Mutex
	// The objects as the events tell, and each revision that was seen.
	objects model
	seen    map[int64]string
	last    int64
	// The revision of its first list: what was written before is in that.
	from int64
	// It had to begin anew there, because its revision was gone. The last list has what lies in a gap.
	gaps []gap
	err  error
}

// gap is a range of revisions that a watch could not see: behind the first one, up to the last one.
type gap struct{ behind, to int64 }

// observe follows the load through an apiserver until the context ends.
func (a *apiserver) observe(ctx context.Context) *observer {
	o := &observer{name: a.file, objects: model{}, seen: map[int64]string{}}
	go o.follow(ctx, func() error { return o.watchAPI(ctx, a) })
	return o
}

// observeStorage follows the load behind a revision through a client of the storage.
func observeStorage(ctx context.Context, name string, etcd *clientv3.Client, revision int64) *observer {
	o := &observer{name: name, isOfStorage: true, objects: model{}, seen: map[int64]string{}, last: revision}
	go o.follow(ctx, func() error { return o.watchStorage(ctx, etcd, revision) })
	return o
}

func (o *observer) follow(ctx context.Context, watch func() error) {
	err := watch()
	o.lock.Lock()
	defer o.lock.Unlock()
	if ctx.Err() == nil {
		o.err = err
	}
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
func (o *observer) watchAPI(ctx context.Context, a *apiserver) error {
	objects := a.client.CoreV1().ConfigMaps(crashNamespace)
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
			if now := revisionOf(list); o.from == 0 {
				o.from = now
			} else if now < o.last {
				o.lock.Unlock()
				return fmt.Errorf("%s: a list at revision %d after an event at %d", o.name, now, o.last)
			} else {
				o.gaps = append(o.gaps, gap{o.last, now})
			}
			o.objects, o.last = modelOf(list.Items), revisionOf(list)
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
			revision = ""
		} else if err != nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// watchStorage follows the same keys at the storage endpoint, by one watch that the etcd client resumes by
// itself, and checks that each event has the object before it.
func (o *observer) watchStorage(ctx context.Context, etcd *clientv3.Client, revision int64) error {
	prefix := "/registry/configmaps/" + crashNamespace + "/"
	versions := map[string]int64{}
	for answer := range etcd.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(revision+1)) {
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
	r.lock.Lock()
	defer r.lock.Unlock()
	if o.err != nil {
		return o.err
	}
	want := model{}
	for name, s := range r.objects {
		if o.isOfStorage {
			// Values are protobuf there, and not read.
			s.n = ""
		}
		want[name] = s
	}
	if err := want.differs(o.objects); err != nil {
		return fmt.Errorf("by the watch of %s: %w", o.name, err)
	}
	for revision, name := range r.writes {
		isListed := slices.ContainsFunc(o.gaps, func(g gap) bool { return g.behind < revision && revision <= g.to })
		if revision > o.from && !isListed && o.seen[revision] != name {
			return fmt.Errorf("the watch of %s did not tell of %s at revision %d", o.name, name, revision)
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

func revisionOf(object interface{ GetResourceVersion() string }) int64 {
	revision, _ := strconv.ParseInt(object.GetResourceVersion(), 10, 64)
	return revision
}

// wanted is an event that a watch must deliver. The revision of a deletion is not in the answer to it: 0.
type wanted struct {
	kind     watch.EventType
	name     string
	revision int64
	n        string
}

// follow checks that a watch delivers these events, in this order and nothing else, and returns the last
// revision.
func follow(ctx context.Context, w watch.Interface, events []wanted) (int64, error) {
	last := int64(0)
	for i, want := range events {
		event, err := next(ctx, w)
		if err != nil {
			return 0, fmt.Errorf("event %d of %d: %w", i+1, len(events), err)
		}
		object := event.Object.(*corev1.ConfigMap)
		got := wanted{event.Type, object.Name, revisionOf(object), object.Data["n"]}
		if got.revision <= last {
			return 0, fmt.Errorf("event %d: revision %d after %d", i+1, got.revision, last)
		}
		last = got.revision
		if want.revision == 0 {
			got.revision = 0
		}
		if got != want {
			return 0, fmt.Errorf("event %d is %v and not %v", i+1, got, want)
		}
	}
	return last, nil
}

func watches(ctx context.Context, d *driver) (string, error) {
	const namespace = "watched"
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	objects := d.client.CoreV1().ConfigMaps(namespace)
	list, err := objects.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	live, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return "", err
	}
	defer live.Stop()

	var events []wanted
	for round := range 20 {
		name, n := fmt.Sprintf("w-%d", round), strconv.Itoa(round)
		created, err := d.create(ctx, namespace, name, n)
		if err != nil {
			return "", err
		}
		updated, err := d.set(ctx, namespace, name, n+"!")
		if err != nil {
			return "", err
		}
		events = append(events, wanted{watch.Added, name, revisionOf(created), n},
			wanted{watch.Modified, name, revisionOf(updated), n + "!"})
		if round%2 == 0 {
			if err := d.delete(ctx, namespace, name); err != nil {
				return "", err
			}
			// The event of a deletion carries what the object was.
			events = append(events, wanted{watch.Deleted, name, 0, n + "!"})
		}
	}
	if _, err := follow(ctx, live, events); err != nil {
		return "", fmt.Errorf("live: %w", err)
	}
	past, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return "", err
	}
	defer past.Stop()
	if _, err := follow(ctx, past, events); err != nil {
		return "", fmt.Errorf("from the past: %w", err)
	}
	// A watch that begins in the middle of the history.
	middle, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: strconv.FormatInt(events[24].revision, 10)})
	if err != nil {
		return "", err
	}
	defer middle.Stop()
	if _, err := follow(ctx, middle, events[25:]); err != nil {
		return "", fmt.Errorf("from the middle: %w", err)
	}

	// A bookmark of a resource where nothing happens can name a revision of another one only by progress
	// notifications.
	if _, err := d.client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}},
		metav1.CreateOptions{}); err != nil {
		return "", err
	}
	revision, err := d.revision(ctx)
	if err != nil {
		return "", err
	}
	began := time.Now()
	err = until(ctx, 40*time.Second, fmt.Sprintf("a bookmark at %d", revision), func(ctx context.Context) error {
		seconds := int64(8)
		quiet, err := d.client.CoreV1().ResourceQuotas(namespace).Watch(ctx, metav1.ListOptions{
			ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
		})
		if err != nil {
			return err
		}
		defer quiet.Stop()
		event, err := nextOrBookmark(ctx, quiet)
		if err != nil {
			return err
		}
		if event.Type != watch.Bookmark {
			return fmt.Errorf("%s where nothing happens", event.Type)
		}
		if got := revisionOf(event.Object.(*corev1.ResourceQuota)); got < revision {
			return fmt.Errorf("a bookmark at %d only", got)
		}
		return nil
	})
	return fmt.Sprintf("%d events live and from the past, a bookmark after %.0f s", len(events), time.Since(began).Seconds()), err
}

func watchList(ctx context.Context, d *driver) (string, error) {
	objects := d.client.CoreV1().ConfigMaps(d.bulk.namespace)
	yes := true
	began := time.Now()
	w, err := objects.Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
	})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	got := model{}
	var took time.Duration
	for took == 0 {
		event, err := nextOrBookmark(ctx, w)
		if err != nil {
			return "", fmt.Errorf("after %d initial events: %w", len(got), err)
		}
		object := event.Object.(*corev1.ConfigMap)
		switch {
		case event.Type == watch.Added:
			got[object.Name] = stateOf(object)
		case event.Type == watch.Bookmark && object.Annotations[metav1.InitialEventsAnnotationKey] == "true":
			took = time.Since(began)
		default:
			return "", fmt.Errorf("%s %s among the initial events", event.Type, object.Name)
		}
	}
	if err := d.bulk.objects.differs(got); err != nil {
		return "", err
	}
	object, err := d.create(ctx, d.bulk.namespace, "z-after-the-list", "live")
	if err != nil {
		return "", err
	}
	d.bulk.objects[object.Name] = stateOf(object)
	_, err = follow(ctx, w, []wanted{{watch.Added, object.Name, revisionOf(object), "live"}})
	if err != nil {
		return "", err
	}

	// The same as every controller sees it.
	factory := informers.NewSharedInformerFactoryWithOptions(d.client, 0, informers.WithNamespace(d.bulk.namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	stop := make(chan struct{})
	defer factory.Shutdown()
	defer close(stop)
	factory.Start(stop)
	syncing, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if !cache.WaitForCacheSync(syncing.Done(), informer.HasSynced) {
		return "", errors.New("an informer does not get its initial state")
	}
	if err := d.changes(ctx, "informer"); err != nil {
		return "", err
	}
	err = until(ctx, 10*time.Second, "an informer holds what was written", func(context.Context) error {
		got, err := held(informer)
		if err != nil {
			return err
		}
		return d.bulk.objects.differs(got)
	})
	return fmt.Sprintf("%d initial events in %.2f s", len(got), took.Seconds()), err
}

// held is what an informer holds of ConfigMaps.
func held(informer cache.SharedIndexInformer) (model, error) {
	got := model{}
	for _, item := range informer.GetStore().List() {
		object, ok := item.(*corev1.ConfigMap)
		if !ok {
			return nil, fmt.Errorf("an informer of ConfigMaps holds a %T", item)
		}
		got[object.Name] = stateOf(object)
	}
	return got, nil
}

func manyWatches(ctx context.Context, d *driver) (string, error) {
	const namespace, count, writes = "crowd", 300, 50
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	objects := d.client.CoreV1().ConfigMaps(namespace)
	list, err := objects.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	crowd := make([]watch.Interface, count)
	if err := parallel(16, count, func(i int) error {
		w, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		crowd[i] = w
		return err
	}); err != nil {
		return "", err
	}
	defer func() {
		for _, w := range crowd {
			w.Stop()
		}
	}()
	var events []wanted
	began := time.Now()
	for i := range writes {
		object, err := d.create(ctx, namespace, fmt.Sprintf("c-%d", i), "x")
		if err != nil {
			return "", err
		}
		events = append(events, wanted{watch.Added, object.Name, revisionOf(object), "x"})
	}
	err = parallel(16, count, func(i int) error {
		if _, err := follow(ctx, crowd[i], events); err != nil {
			return fmt.Errorf("watch %d of %d: %w", i+1, count, err)
		}
		return nil
	})
	return fmt.Sprintf("%d watches, %d events each, in %.1f s", count, writes, time.Since(began).Seconds()), err
}

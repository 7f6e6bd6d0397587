package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

func event(namespace, name string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: name},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: "p"},
		Reason:         "Driven", Message: "by the driver", Type: corev1.EventTypeNormal,
	}
}

func eventsWithTTL(ctx context.Context, d *driver) (string, error) {
	// More than the apiserver attaches to one lease, 1,000.
	const namespace, count = "events", 1500
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	events := d.client.CoreV1().Events(namespace)
	list, err := events.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	// Of Events the apiserver has no cache, so this is a watch of the storage.
	w, err := events.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	before, err := d.etcd.Leases(ctx)
	if err != nil {
		return "", err
	}
	renewed, err := events.Create(ctx, event(namespace, "renewed"), metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := parallel(8, count, func(i int) error {
		_, err := events.Create(ctx, event(namespace, fmt.Sprintf("e-%04d", i)), metav1.CreateOptions{})
		return err
	}); err != nil {
		return "", err
	}
	created := time.Now()
	leases, err := d.etcd.Leases(ctx)
	if err != nil {
		return "", err
	}

	deleted := map[string]time.Duration{}
	// An update moves an object to a new lease: the end of the old one must leave it alone.
	renew := time.NewTicker(eventTTL / 3)
	defer renew.Stop()
	deadline := time.After(eventTTL + time.Since(began) + 30*time.Second)
	for len(deleted) < count {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				return "", fmt.Errorf("the watch ended after %d deletions", len(deleted))
			}
			object, ok := e.Object.(*corev1.Event)
			if !ok {
				return "", fmt.Errorf("the watch failed: %w", apierrors.FromObject(e.Object))
			}
			if e.Type != watch.Deleted {
				continue
			}
			if object.Name == "renewed" {
				return "", errors.New("an event that was renewed went with its old lease")
			}
			if object.Message != "by the driver" {
				return "", fmt.Errorf("the deletion of %s does not carry the object", object.Name)
			}
			deleted[object.Name] = time.Since(began)
			if since := time.Since(began); since < eventTTL {
				return "", fmt.Errorf("%s went after %.1f s", object.Name, since.Seconds())
			}
		case <-renew.C:
			renewed.Count++
			if renewed, err = events.Update(ctx, renewed, metav1.UpdateOptions{}); err != nil {
				return "", fmt.Errorf("renewal: %w", err)
			}
		case <-deadline:
			return "", fmt.Errorf("%d of %d went in time", len(deleted), count)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	late := time.Since(created) - eventTTL
	if list, err = events.List(ctx, metav1.ListOptions{}); err != nil {
		return "", err
	}
	if len(list.Items) != 1 || list.Items[0].Name != "renewed" {
		return "", fmt.Errorf("%d events are left, not the renewed one alone", len(list.Items))
	}
	return fmt.Sprintf("%d on %d leases, the last went %.1f s after its time", count, len(leases.Leases)-len(before.Leases), late.Seconds()),
		until(ctx, eventTTL+30*time.Second, "the renewed event is gone too", func(ctx context.Context) error {
			left, err := d.keys(ctx, "/registry/events/"+namespace+"/")
			if err == nil && left > 0 {
				err = fmt.Errorf("%d events are left", left)
			}
			return err
		})
}

func compaction(ctx context.Context, d *driver) (string, error) {
	current, err := d.revision(ctx)
	if err != nil {
		return "", err
	}
	began := time.Now()
	// Two intervals: what one finds as the current revision, the next makes the floor.
	err = until(ctx, 3*compactionInterval, fmt.Sprintf("revision %d is compacted", current), func(ctx context.Context) error {
		_, err := d.etcd.Get(ctx, "health", clientv3.WithRev(current))
		return expect("a read of it", err, func(err error) bool { return errors.Is(err, rpctypes.ErrCompacted) })
	})
	if err != nil {
		return "", err
	}
	took := time.Since(began)

	objects := d.client.CoreV1().ConfigMaps(d.bulk.namespace)
	old := fmt.Sprint(d.firstRevision)
	// The apiserver's cache hears of the compaction by a watch of its own.
	if err := until(ctx, 10*time.Second, "an old list is refused", func(ctx context.Context) error {
		_, err := objects.List(ctx, metav1.ListOptions{ResourceVersion: old, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		return expect("a list at revision "+old, err, apierrors.IsResourceExpired)
	}); err != nil {
		return "", err
	}
	if d.earlyToken != "" {
		_, err = objects.List(ctx, metav1.ListOptions{Continue: d.earlyToken, Limit: 100})
		if err := expect("an old page token", err, apierrors.IsResourceExpired); err != nil {
			return "", err
		}
		// The refusal holds a token to go on with at the current revision.
		status, ok := err.(apierrors.APIStatus)
		if !ok || status.Status().Continue == "" {
			return "", errors.New("the refusal of an old page token has none to go on with")
		}
		list, err := objects.List(ctx, metav1.ListOptions{Continue: status.Status().Continue, Limit: 100})
		if err != nil {
			return "", fmt.Errorf("the token of the refusal: %w", err)
		}
		if len(list.Items) == 0 {
			return "", errors.New("the token of the refusal leads nowhere")
		}
	}
	w, err := d.client.CoreV1().Events(d.bulk.namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: old})
	if err == nil {
		_, err = next(ctx, w)
		w.Stop()
	}
	gone := func(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }
	if err := expect("an old watch", err, gone); err != nil {
		return "", err
	}
	// The floor takes nothing of what is current, and the list before it is whole.
	return fmt.Sprintf("revision %d was the past after %.0f s", current, took.Seconds()),
		d.verify(ctx, d.bulk.namespace, d.bulk.objects)
}

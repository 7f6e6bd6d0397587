package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func namespaces(ctx context.Context, d *driver) (string, error) {
	for i := range 5 {
		if err := d.namespace(ctx, fmt.Sprintf("space-%d", i)); err != nil {
			return "", err
		}
	}
	list, err := d.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for i := range 5 {
		if !slices.ContainsFunc(list.Items, func(n corev1.Namespace) bool { return n.Name == fmt.Sprintf("space-%d", i) }) {
			return "", fmt.Errorf("space-%d is missing from the list", i)
		}
	}
	err = d.namespace(ctx, "space-0")
	return fmt.Sprintf("%d listed", len(list.Items)), expect("a second space-0", err, apierrors.IsAlreadyExists)
}

func bulk(ctx context.Context, d *driver) (string, error) {
	d.bulk = bulkModel{namespace: "bulk", objects: model{}}
	if err := d.namespace(ctx, d.bulk.namespace); err != nil {
		return "", err
	}
	padding := strings.Repeat("x", 1000)
	seen := map[string]string{}
	var lock sync.Mutex
	began := time.Now()
	err := parallel(8, d.options.objects, func(i int) error {
		object := configMap(fmt.Sprintf("cm-%05d", i), "0")
		object.Labels = map[string]string{"parity": []string{"even", "odd"}[i%2]}
		object.Data["padding"] = padding
		object, err := d.client.CoreV1().ConfigMaps(d.bulk.namespace).Create(ctx, object, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		lock.Lock()
		defer lock.Unlock()
		if other, there := seen[object.ResourceVersion]; there {
			return fmt.Errorf("%s and %s were both created at revision %s", object.Name, other, object.ResourceVersion)
		}
		seen[object.ResourceVersion] = object.Name
		d.bulk.objects[object.Name] = stateOf(object)
		return nil
	})
	if err != nil {
		return "", err
	}
	rate := float64(d.options.objects) / time.Since(began).Seconds()
	return fmt.Sprintf("%.0f creates/s with 8 clients", rate), d.verify(ctx, d.bulk.namespace, d.bulk.objects)
}

// pages reads a list page by page and calls `between` after the first one.
func (d *driver) pages(ctx context.Context, options metav1.ListOptions, between func(*corev1.ConfigMapList) error) ([]corev1.ConfigMap, int, error) {
	var all []corev1.ConfigMap
	total, revision := int64(-1), ""
	for page := 1; ; page++ {
		list, err := d.client.CoreV1().ConfigMaps(d.bulk.namespace).List(ctx, options)
		if err != nil {
			return nil, page, fmt.Errorf("page %d: %w", page, err)
		}
		all = append(all, list.Items...)
		if revision == "" {
			revision = list.ResourceVersion
		}
		if list.ResourceVersion != revision {
			return nil, page, fmt.Errorf("page %d is at revision %s, the first was at %s", page, list.ResourceVersion, revision)
		}
		// The API leaves the remainder out of lists with a selector.
		if list.RemainingItemCount != nil {
			if sum := int64(len(all)) + *list.RemainingItemCount; total >= 0 && sum != total {
				return nil, page, fmt.Errorf("page %d: %d objects in all, page 1 said %d", page, sum, total)
			} else {
				total = sum
			}
		} else if list.Continue != "" && options.LabelSelector == "" {
			return nil, page, fmt.Errorf("page %d has a successor and no remainder", page)
		}
		if page == 1 && between != nil {
			if err := between(list); err != nil {
				return nil, page, err
			}
		}
		if list.Continue == "" {
			if total >= 0 && int64(len(all)) != total {
				return nil, page, fmt.Errorf("%d objects in %d pages, the first said %d", len(all), page, total)
			}
			if !slices.IsSortedFunc(all, func(a, b corev1.ConfigMap) int { return strings.Compare(a.Name, b.Name) }) {
				return nil, page, fmt.Errorf("the pages are not in the order of the names")
			}
			return all, page, nil
		}
		options.Continue, options.ResourceVersion, options.ResourceVersionMatch = list.Continue, "", ""
	}
}

func pagedLists(ctx context.Context, d *driver) (string, error) {
	all, pages, err := d.pages(ctx, metav1.ListOptions{Limit: 150}, func(first *corev1.ConfigMapList) error {
		d.earlyToken = first.Continue
		return nil
	})
	if err != nil {
		return "", err
	}
	if err := d.bulk.objects.differs(modelOf(all)); err != nil {
		return "", err
	}

	// Writes after the first page must not show in the others.
	before := maps.Clone(d.bulk.objects)
	all, _, err = d.pages(ctx, metav1.ListOptions{Limit: 500}, func(*corev1.ConfigMapList) error {
		return d.changes(ctx, "between-pages")
	})
	if err != nil {
		return "", fmt.Errorf("with writes between the pages: %w", err)
	}
	if err := before.differs(modelOf(all)); err != nil {
		return "", fmt.Errorf("with writes between the pages: %w", err)
	}
	if err := d.verify(ctx, d.bulk.namespace, d.bulk.objects); err != nil {
		return "", fmt.Errorf("after the writes between the pages: %w", err)
	}

	even, _, err := d.pages(ctx, metav1.ListOptions{Limit: 100, LabelSelector: "parity=even"}, nil)
	if err != nil {
		return "", fmt.Errorf("with a selector: %w", err)
	}
	for _, object := range even {
		if object.Labels["parity"] != "even" || d.bulk.objects[object.Name] != stateOf(&object) {
			return "", fmt.Errorf("with a selector: %s should not be there, or not so", object.Name)
		}
	}
	// Of the last six objects three were deleted, the even ones.
	if want := d.options.objects/2 - 3; len(even) != want {
		return "", fmt.Errorf("with a selector: %d objects and not %d", len(even), want)
	}
	return fmt.Sprintf("%d pages of 150, each as of the first", pages), nil
}

func exactLists(ctx context.Context, d *driver) (string, error) {
	lister := d.client.CoreV1().ConfigMaps(d.bulk.namespace)
	type moment struct {
		revision string
		objects  model
	}
	var past []moment
	for i := range 4 {
		list, err := lister.List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return "", err
		}
		past = append(past, moment{list.ResourceVersion, maps.Clone(d.bulk.objects)})
		if err := d.changes(ctx, fmt.Sprintf("exact-%d", i)); err != nil {
			return "", err
		}
	}
	for _, moment := range past {
		for _, limit := range []int64{0, 700} {
			options := metav1.ListOptions{
				ResourceVersion: moment.revision, ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: limit,
			}
			all, _, err := d.pages(ctx, options, nil)
			if err != nil {
				return "", fmt.Errorf("at %s, limit %d: %w", moment.revision, limit, err)
			}
			if err := moment.objects.differs(modelOf(all)); err != nil {
				return "", fmt.Errorf("at %s, limit %d: %w", moment.revision, limit, err)
			}
		}
	}

	revision, err := d.revision(ctx)
	if err != nil {
		return "", err
	}
	for _, match := range []metav1.ResourceVersionMatch{metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan} {
		// Once: the answer invites to try again, and client-go would ten times.
		err := d.client.CoreV1().RESTClient().Get().MaxRetries(0).Namespace(d.bulk.namespace).Resource("configmaps").
			Param("resourceVersion", fmt.Sprint(revision+1_000_000)).Param("resourceVersionMatch", string(match)).
			Param("limit", "1").Do(ctx).Error()
		tooLarge := func(err error) bool { return apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) }
		if err := expect(fmt.Sprintf("a list %s in the future", match), err, tooLarge); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d past revisions, whole and in pages", len(past)), d.verify(ctx, d.bulk.namespace, d.bulk.objects)
}

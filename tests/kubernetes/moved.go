package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// lists counts the requests of a client that ask for all objects: lists, and watches that begin with one.
type lists struct {
	http.RoundTripper
	count, watches atomic.Int64
}

func (l *lists) RoundTrip(request *http.Request) (*http.Response, error) {
	query := request.URL.Query()
	switch {
	case request.Method != http.MethodGet:
	case query.Get("watch") == "":
		l.count.Add(1)
	case query.Get("sendInitialEvents") == "true" || query.Get("resourceVersion") == "":
		l.count.Add(1)
	default:
		l.watches.Add(1)
	}
	return l.RoundTripper.RoundTrip(request)
}

// moved copies the storage from etcd to jetway under a load, starts the apiserver again on jetway, and
// compares what informers hold that have been there from before. Their watches go on at the revisions that
// they have seen: none of them lists anew.
func moved(ctx context.Context, d *driver) (string, error) {
	if err := d.namespace(ctx, crashNamespace); err != nil {
		return "", err
	}
	counted := &lists{}
	config := rest.CopyConfig(d.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		counted.RoundTripper = next
		return counted
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(crashNamespace))
	written := factory.Core().V1().ConfigMaps().Informer()
	all := []cache.SharedIndexInformer{written, factory.Core().V1().Secrets().Informer(), factory.Core().V1().Pods().Informer(),
		factory.Coordination().V1().Leases().Informer()}
	factory.Start(watching.Done())
	factory.WaitForCacheSync(watching.Done())
	observer := d.observe(watching)
	load := startLoad(ctx, 3, d.apiservers, d.options.seed)
	defer load.cancel()
	if err := load.more(ctx, d.apiserver, 200); err != nil {
		return "", err
	}
	before, watchesBefore := counted.count.Load(), counted.watches.Load()
	if before == 0 {
		return "", errors.New("the lists of the informers are not counted")
	}

	etcd := d.storage[0]
	jetway := &member{name: "default", file: "jetway"}
	for _, port := range []*int{&jetway.clientPort, &jetway.peerPort} {
		if *port, err = freePort(); err != nil {
			return "", err
		}
	}
	url := d.clientURL(jetway)
	jetway.process, err = start(d.dir, jetway.file, nil, d.options.jetway, append([]string{"migrate", "--from", d.clientURL(etcd),
		"--switch-over", "--serve", "--listen-client-urls", url, "--advertise-client-urls", url,
		"--data-dir", d.path("jetway.data"), "--nats-server", d.options.natsServer}, d.options.jetwayFlags...)...)
	if err != nil {
		return "", err
	}
	d.storage = append(d.storage, jetway)
	if err := d.memberReady(ctx, jetway); err != nil {
		return "", err
	}
	began := time.Now()
	d.apiserver.kill()
	d.apiserver.of = []*member{jetway}
	if err := d.startAPIServer(ctx, d.apiserver); err != nil {
		return "", err
	}
	back := time.Since(began)
	// Nobody may go on with etcd unnoticed.
	etcd.kill()
	d.storage = []*member{jetway}
	d.options.backend = "jetway"
	d.etcd.Close()
	if d.etcd, err = d.etcdClient(jetway); err != nil {
		return "", err
	}
	if err := load.more(ctx, d.apiserver, 200); err != nil {
		return "", err
	}
	if err := load.end(ctx); err != nil {
		return "", err
	}
	if err := d.verify(ctx, crashNamespace, load.record.objects); err != nil {
		return "", err
	}
	if err := verifyStored(ctx, d.etcd, crashNamespace, load.record.objects); err != nil {
		return "", err
	}
	if err := until(ctx, time.Minute, "the informer holds what was written", func(context.Context) error {
		got, err := held(written)
		if err != nil {
			return err
		}
		return load.record.objects.differs(got)
	}); err != nil {
		return "", err
	}
	if err := until(ctx, time.Minute, "all is seen", func(context.Context) error { return observer.complete(load.record) }); err != nil {
		return "", err
	}
	if len(observer.gaps) > 0 {
		return "", fmt.Errorf("a watch began anew behind revision %d", observer.gaps[0].behind)
	}
	if again := counted.count.Load() - before; again > 0 {
		return "", fmt.Errorf("%d informers list anew %d times", len(all), again)
	}
	resumed := counted.watches.Load() - watchesBefore
	if resumed < int64(len(all)) {
		return "", fmt.Errorf("%d watches were resumed, of %d informers", resumed, len(all))
	}
	return fmt.Sprintf("%d objects and %d revisions; %d informers resumed %d watches and listed nothing anew; the apiserver was back after %.1f s; %s",
		len(load.record.objects), len(load.record.writes), len(all), resumed, back.Seconds(), strings.TrimSpace(load.record.String())), nil
}

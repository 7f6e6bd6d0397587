package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// apiserver is one kube-apiserver, on the same port and certificate at each start, and the clients to it.
type apiserver struct {
	// Names the files in the driver's folder.
	file string
	port int
	// The members of the storage that it asks.
	of []*member
	// The last one that was started.
	*process

	config     *rest.Config
	client     *kubernetes.Clientset
	dynamic    *dynamic.DynamicClient
	extensions *apiextensions.Clientset
	// The writes of the load that it has answered.
	answered atomic.Int64
}

// newAPIServers are one over all members of the storage, or one on each, as kubeadm has it.
func newAPIServers(o options, storage []*member) ([]*apiserver, error) {
	servers := make([]*apiserver, o.apiservers)
	for i := range servers {
		a := &apiserver{file: "kube-apiserver", of: storage}
		if o.apiservers > 1 {
			a.file, a.of = fmt.Sprintf("kube-apiserver-%d", i+1), storage[i:i+1]
		}
		var err error
		if a.port, err = freePort(); err != nil {
			return nil, err
		}
		servers[i] = a
	}
	return servers, nil
}

// certificates is the folder of the certificate that it makes for itself.
func (s *stack) certificates(a *apiserver) string { return s.path(a.file + ".certs") }

// startAPIServer starts an apiserver and waits until it is ready.
func (s *stack) startAPIServer(ctx context.Context, a *apiserver) error {
	args := []string{"--etcd-servers", strings.Join(s.clientURLs(a.of), ",")}
	if s.options.kubeadm {
		args = append(args, "--etcd-cafile", s.secrets.path("ca.crt"),
			"--etcd-certfile", s.secrets.path("client.crt"), "--etcd-keyfile", s.secrets.path("client.key"))
	}
	args = append(args,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", a.port),
		"--cert-dir", s.certificates(a), "--token-auth-file", s.path("tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-key-file", s.path("sa.pub"), "--service-account-signing-key-file", s.path("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24",
		"--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount",
		fmt.Sprintf("--event-ttl=%s", eventTTL), fmt.Sprintf("--etcd-compaction-interval=%s", compactionInterval),
	)
	if s.options.migrate {
		// A watch cache begins with the start of its apiserver, so that clients with an earlier revision list anew.
		args = append(args, "--watch-cache=false")
	}
	var err error
	a.process, err = start(s.dir, a.file, []string{"KUBE_WATCHCACHE_CONSISTENCY_CHECKER=true"},
		s.options.program("kube-apiserver"), args...)
	if err != nil {
		return err
	}
	config := &rest.Config{
		Host:        fmt.Sprintf("https://127.0.0.1:%d", a.port),
		BearerToken: token,
		QPS:         -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: s.certificates(a) + "/apiserver.crt",
		},
	}
	a.config = config
	return until(ctx, 2*time.Minute, a.file+" is ready", func(ctx context.Context) error {
		if !a.running() {
			return fmt.Errorf("it has ended: %v", a.err)
		}
		if a.client != nil {
			return a.ready(ctx)
		}
		// The file of its certificate is there a moment after its start, and whole a moment after that.
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		if err := ready(ctx, client); err != nil {
			return err
		}
		a.client, a.dynamic, a.extensions = client, dynamic.NewForConfigOrDie(config), apiextensions.NewForConfigOrDie(config)
		return nil
	})
}

// ready asks the apiserver whether it calls itself ready.
func (a *apiserver) ready(ctx context.Context) error { return ready(ctx, a.client) }

func ready(ctx context.Context, client *kubernetes.Clientset) error {
	_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").DoRaw(ctx)
	return err
}

// unharmed reports whether the apiserver that was started is still the one that runs, and has nothing to
// hide.
func (s *stack) unharmed(a *apiserver) error {
	if !a.running() {
		return fmt.Errorf("%s has ended: %v", a.file, a.err)
	}
	log, err := os.ReadFile(s.path(a.file + ".log"))
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(log), "\n") {
		for _, sign := range []string{"Observed a panic", "panicked: true", "panic:", "onsistency check failed"} {
			if strings.Contains(line, sign) {
				return fmt.Errorf("%s logged: %s", a.file, line)
			}
		}
	}
	return nil
}

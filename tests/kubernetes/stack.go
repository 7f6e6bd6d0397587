package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const token = "driver-token"

// stack is one control plane on one storage: its programs, and the clients to it.
type stack struct {
	options options
	// Logs, certificates and the data of the storage endpoint.
	dir string

	apiserverPort int
	// Of kubeadm's command line.
	secrets     etcdSecrets
	storage     []*member
	apiserver   *process
	controllers *process

	client     *kubernetes.Clientset
	dynamic    *dynamic.DynamicClient
	extensions *apiextensions.Clientset
	// A client of the storage endpoint itself, to see behind the apiserver's caches.
	etcd *clientv3.Client
}

func newStack(options options, dir string) (*stack, error) {
	s := &stack{options: options, dir: dir}
	var err error
	if s.apiserverPort, err = freePort(); err != nil {
		return nil, err
	}
	if s.storage, err = newMembers(options); err != nil {
		return nil, err
	}
	if options.kubeadm {
		if s.secrets, err = writeEtcdSecrets(s.path("pki")); err != nil {
			return nil, err
		}
	}
	return s, s.writeCredentials()
}

func (s *stack) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stack) writeCredentials() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	kubeconfig := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:%d", certificate-authority: %q}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, s.apiserverPort, s.path("certs/apiserver.crt"), token)
	for name, text := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv": []byte(token + ",driver,driver,system:masters\n"),
		"kubeconfig": []byte(kubeconfig),
	} {
		if err := os.WriteFile(s.path(name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startControlPlane starts kube-apiserver and the few controllers that the steps need, and waits for both.
func (s *stack) startControlPlane(ctx context.Context) error {
	if err := s.startAPIServer(ctx); err != nil {
		return err
	}
	var err error
	s.controllers, err = start(s.dir, "kube-controller-manager", nil, s.options.program("kube-controller-manager"),
		"--kubeconfig", s.path("kubeconfig"), "--bind-address=127.0.0.1", "--secure-port=0",
		"--controllers=namespace-controller,garbage-collector-controller,deployment-controller,replicaset-controller",
		// A leader that cannot renew its lease ends: longer than any outage that the driver makes.
		"--leader-elect-lease-duration=120s", "--leader-elect-renew-deadline=100s",
		"--kube-api-qps=500", "--kube-api-burst=500",
	)
	return err
}

func (s *stack) startAPIServer(ctx context.Context) error {
	args := []string{"--etcd-servers", strings.Join(s.clientURLs(), ",")}
	if s.options.kubeadm {
		args = append(args, "--etcd-cafile", s.secrets.path("ca.crt"),
			"--etcd-certfile", s.secrets.path("client.crt"), "--etcd-keyfile", s.secrets.path("client.key"))
	}
	args = append(args,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", s.apiserverPort),
		"--cert-dir", s.path("certs"), "--token-auth-file", s.path("tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-key-file", s.path("sa.pub"), "--service-account-signing-key-file", s.path("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24",
		"--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount",
		fmt.Sprintf("--event-ttl=%s", eventTTL), fmt.Sprintf("--etcd-compaction-interval=%s", compactionInterval),
	)
	var err error
	s.apiserver, err = start(s.dir, "kube-apiserver", []string{"KUBE_WATCHCACHE_CONSISTENCY_CHECKER=true"},
		s.options.program("kube-apiserver"), args...)
	if err != nil {
		return err
	}
	config := &rest.Config{
		Host:        fmt.Sprintf("https://127.0.0.1:%d", s.apiserverPort),
		BearerToken: token,
		QPS:         -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: s.path("certs/apiserver.crt"),
		},
	}
	return until(ctx, 2*time.Minute, "kube-apiserver is ready", func(ctx context.Context) error {
		if !s.apiserver.running() {
			return fmt.Errorf("it has ended: %v", s.apiserver.err)
		}
		if s.client == nil {
			// Its certificate is there a moment after its start.
			if _, err := os.Stat(config.CAFile); err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			s.client, s.dynamic, s.extensions = client, dynamic.NewForConfigOrDie(config), apiextensions.NewForConfigOrDie(config)
		}
		return s.apiserverReady(ctx)
	})
}

func (s *stack) apiserverReady(ctx context.Context) error {
	_, err := s.client.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").DoRaw(ctx)
	return err
}

// unharmed reports whether the control plane that was started is still the one that runs, and has nothing to
// hide.
func (s *stack) unharmed() error {
	for _, p := range []*process{s.apiserver, s.controllers} {
		if !p.running() {
			return fmt.Errorf("%s has ended: %v", p.name, p.err)
		}
	}
	log, err := os.ReadFile(s.path("kube-apiserver.log"))
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(log), "\n") {
		for _, sign := range []string{"Observed a panic", "panicked: true", "panic:", "onsistency check failed"} {
			if strings.Contains(line, sign) {
				return fmt.Errorf("kube-apiserver logged: %s", line)
			}
		}
	}
	return nil
}

// stop ends all programs. The control plane may end as it likes.
func (s *stack) stop() error {
	for _, p := range []*process{s.controllers, s.apiserver} {
		if p != nil && p.running() {
			p.kill()
		}
	}
	if s.etcd != nil {
		s.etcd.Close()
	}
	return s.stopStorage()
}

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

	clientv3 "go.etcd.io/etcd/client/v3"
)

const token = "driver-token"

// stack is one control plane on one storage: its programs, and the clients to it.
type stack struct {
	options options
	// Logs, certificates and the data of the storage endpoint.
	dir string

	// Of kubeadm's command line.
	secrets etcdSecrets
	storage []*member
	// The first of all, which most steps ask.
	*apiserver
	apiservers []*apiserver
	// Nil beside more than one apiserver: no step there needs them.
	controllers *process

	// A client of the storage endpoint itself, to see behind the apiserver's caches.
	etcd *clientv3.Client
}

func newStack(options options, dir string) (*stack, error) {
	s := &stack{options: options, dir: dir}
	var err error
	if s.storage, err = newMembers(options); err != nil {
		return nil, err
	}
	if s.apiservers, err = newAPIServers(options, s.storage); err != nil {
		return nil, err
	}
	s.apiserver = s.apiservers[0]
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
`, s.port, s.certificates(s.apiserver)+"/apiserver.crt", token)
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

// startControlPlane starts one kube-apiserver after the other, as kubeadm's `init` and `join` do. Beside a
// single one it starts the few controllers that the steps need.
func (s *stack) startControlPlane(ctx context.Context) error {
	for _, a := range s.apiservers {
		if err := s.startAPIServer(ctx, a); err != nil {
			return err
		}
	}
	if len(s.apiservers) > 1 {
		return nil
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

// allUnharmed reports whether the control plane that was started is still the one that runs, and has nothing
// to hide.
func (s *stack) allUnharmed() error {
	if s.controllers != nil && !s.controllers.running() {
		return fmt.Errorf("%s has ended: %v", s.controllers.name, s.controllers.err)
	}
	for _, a := range s.apiservers {
		if err := s.unharmed(a); err != nil {
			return err
		}
	}
	return nil
}

// stop ends all programs. The control plane may end as it likes.
func (s *stack) stop() error {
	programs := []*process{s.controllers}
	for _, a := range s.apiservers {
		programs = append(programs, a.process)
	}
	for _, p := range programs {
		if p != nil && p.running() {
			p.kill()
		}
	}
	if s.etcd != nil {
		s.etcd.Close()
	}
	return s.stopStorage()
}

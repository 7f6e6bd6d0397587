package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// etcdSecrets is what kubeadm puts into /etc/kubernetes/pki/etcd: an authority, the member's certificate, and
// that of the apiserver as its client.
type etcdSecrets struct {
	dir string
}

func (e etcdSecrets) path(name string) string { return filepath.Join(e.dir, name) }

// writeEtcdSecrets makes all of them afresh.
func writeEtcdSecrets(dir string) (etcdSecrets, error) {
	e := etcdSecrets{dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return e, err
	}
	authority := template("etcd-ca")
	authority.IsCA, authority.BasicConstraintsValid = true, true
	authority.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	authorityKey, err := e.issue("ca", authority, nil, nil)
	if err != nil {
		return e, err
	}
	server := template("node")
	server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	server.DNSNames = []string{"localhost"}
	client := template("kube-apiserver-etcd-client")
	for name, certificate := range map[string]*x509.Certificate{"server": server, "client": client} {
		certificate.KeyUsage = x509.KeyUsageDigitalSignature
		certificate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		if _, err := e.issue(name, certificate, authority, authorityKey); err != nil {
			return e, err
		}
	}
	return e, nil
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

// issue writes a certificate and its key; without an issuer it signs itself.
func (e etcdSecrets) issue(name string, certificate, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if issuer == nil {
		issuer, issuerKey = certificate, key
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: der},
		name + ".key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(e.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	return key, nil
}

// clientTLS is what the apiserver connects with.
func (e etcdSecrets) clientTLS() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(e.path("client.crt"), e.path("client.key"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(e.path("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	return &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: roots}, nil
}

// startKubeadmMember starts a member with the command line of kubeadm's static pod for etcd, as it stands but
// for paths and ports, and with all members in the list of each. jetway is started by a link named etcd, which
// stands for the image that was exchanged.
func (s *stack) startKubeadmMember(m *member) error {
	program, env := s.options.etcd, []string(nil)
	if s.options.backend == "jetway" {
		program, env = s.path("etcd"), []string{"JETWAY_NATS_SERVER=" + s.options.natsServer}
		if err := os.Symlink(s.options.jetway, program); err != nil && !os.IsExist(err) {
			return err
		}
	}
	args := []string{
		"--advertise-client-urls=" + s.clientURL(m),
		"--cert-file=" + s.secrets.path("server.crt"),
		"--client-cert-auth=true",
		"--data-dir=" + s.path(m.file+".data"),
		"--feature-gates=InitialCorruptCheck=true",
		"--initial-advertise-peer-urls=" + s.peerURL(m),
		"--initial-cluster=" + s.initialCluster(),
		"--key-file=" + s.secrets.path("server.key"),
		"--listen-client-urls=" + s.clientURL(m),
		fmt.Sprintf("--listen-metrics-urls=http://127.0.0.1:%d", m.metricsPort),
		"--listen-peer-urls=" + s.peerURL(m),
		"--name=" + m.name,
		"--peer-cert-file=" + s.secrets.path("server.crt"),
		"--peer-client-cert-auth=true",
		"--peer-key-file=" + s.secrets.path("server.key"),
		"--peer-trusted-ca-file=" + s.secrets.path("ca.crt"),
		"--snapshot-count=10000",
		"--trusted-ca-file=" + s.secrets.path("ca.crt"),
		"--watch-progress-notify-interval=5s",
	}
	var err error
	m.process, err = start(s.dir, m.file, env, program, append(args, s.options.jetwayFlags...)...)
	return err
}

// probesAnswer asks what kubelet asks of kubeadm's pod.
func (s *stack) probesAnswer(ctx context.Context, m *member) error {
	for _, probe := range []string{"/livez", "/readyz", "/health?exclude=NOSPACE&serializable=true", "/health?serializable=false"} {
		url := fmt.Sprintf("http://127.0.0.1:%d%s", m.metricsPort, probe)
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", probe, answer.Status)
		}
	}
	return nil
}

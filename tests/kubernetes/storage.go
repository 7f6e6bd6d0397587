package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// member is one process of the storage, on the same data and ports at each start.
type member struct {
	name                              string
	clientPort, peerPort, metricsPort int
	// Names the files in the driver's folder.
	file string
	// The last one that was started.
	*process
}

func newMembers(o options) ([]*member, error) {
	var members []*member
	for i := range o.members {
		m := &member{name: fmt.Sprintf("m%d", i+1), file: fmt.Sprintf("%s-%d", o.backend, i+1)}
		if o.members == 1 {
			m.name, m.file = "default", o.backend
		}
		for _, port := range []*int{&m.clientPort, &m.peerPort, &m.metricsPort} {
			var err error
			if *port, err = freePort(); err != nil {
				return nil, err
			}
		}
		members = append(members, m)
	}
	return members, nil
}

func (s *stack) scheme() string {
	if s.options.kubeadm {
		return "https"
	}
	return "http"
}

func (s *stack) clientURL(m *member) string {
	return fmt.Sprintf("%s://127.0.0.1:%d", s.scheme(), m.clientPort)
}

func (s *stack) peerURL(m *member) string {
	return fmt.Sprintf("%s://127.0.0.1:%d", s.scheme(), m.peerPort)
}

// clientURLs are those of members.
func (s *stack) clientURLs(members []*member) []string {
	var urls []string
	for _, m := range members {
		urls = append(urls, s.clientURL(m))
	}
	return urls
}

// initialCluster is the list of members as etcd takes it.
func (s *stack) initialCluster() string {
	var entries []string
	for _, m := range s.storage {
		entries = append(entries, m.name+"="+s.peerURL(m))
	}
	return strings.Join(entries, ",")
}

// startStorage starts all members, without waiting for them.
func (s *stack) startStorage() error {
	for _, m := range s.storage {
		if err := s.startMember(m); err != nil {
			return err
		}
	}
	return nil
}

// startMember starts a member on its data and ports, without waiting for it.
func (s *stack) startMember(m *member) error {
	if s.options.kubeadm {
		return s.startKubeadmMember(m)
	}
	args := []string{"--listen-client-urls", s.clientURL(m), "--advertise-client-urls", s.clientURL(m),
		"--data-dir", s.path(m.file + ".data")}
	peers := []string{"--name", m.name, "--listen-peer-urls", s.peerURL(m), "--initial-advertise-peer-urls", s.peerURL(m),
		"--initial-cluster", s.initialCluster(), "--initial-cluster-token", "kubernetes", "--watch-progress-notify-interval", "5s"}
	var err error
	switch s.options.backend {
	case "jetway":
		args = append(args, "--nats-server", s.options.natsServer)
		if len(s.storage) > 1 {
			args = append(args, peers...)
		}
		m.process, err = start(s.dir, m.file, nil, s.options.jetway, append(args, s.options.jetwayFlags...)...)
	case "etcd":
		m.process, err = start(s.dir, m.file, nil, s.options.etcd, append(append(args, peers...), "--log-level", "warn")...)
	default:
		err = fmt.Errorf("--backend %s: give jetway or etcd", s.options.backend)
	}
	return err
}

// etcdClient makes a client of these members.
func (s *stack) etcdClient(members ...*member) (*clientv3.Client, error) {
	config := clientv3.Config{Endpoints: s.clientURLs(members), DialTimeout: time.Minute, Logger: zap.NewNop()}
	if s.options.kubeadm {
		var err error
		if config.TLS, err = s.secrets.clientTLS(); err != nil {
			return nil, err
		}
	}
	return clientv3.New(config)
}

// storageReady waits until each member answers a linearizable read.
func (s *stack) storageReady(ctx context.Context) error {
	if s.etcd == nil {
		client, err := s.etcdClient(s.storage...)
		if err != nil {
			return err
		}
		s.etcd = client
	}
	for _, m := range s.storage {
		if err := s.memberReady(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (s *stack) memberReady(ctx context.Context, m *member) error {
	client, err := s.etcdClient(m)
	if err != nil {
		return err
	}
	defer client.Close()
	return until(ctx, time.Minute, m.file+" is ready", func(ctx context.Context) error {
		if !m.running() {
			return fmt.Errorf("it has ended: %v", m.err)
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if s.options.kubeadm {
			if err := s.probesAnswer(ctx, m); err != nil {
				return err
			}
		}
		_, err := client.Get(ctx, "health")
		return err
	})
}

// writer is the member that calls itself the leader.
func (s *stack) writer(ctx context.Context) (*member, error) {
	var leader *member
	err := until(ctx, time.Minute, "a member leads", func(ctx context.Context) error {
		for _, m := range s.storage {
			short, cancel := context.WithTimeout(ctx, time.Second)
			status, err := s.etcd.Status(short, s.clientURL(m))
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				leader = m
				return nil
			}
		}
		return errors.New("none does")
	})
	return leader, err
}

// follower is a member that does not lead.
func (s *stack) follower(ctx context.Context) (*member, error) {
	writer, err := s.writer(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range s.storage {
		if m != writer {
			return m, nil
		}
	}
	return nil, errors.New("the only member leads")
}

// stopStorage asks each member to end. jetway must do so cleanly, and take its nats-server with it.
func (s *stack) stopStorage() error {
	var problems []error
	for _, m := range s.storage {
		if m.process == nil {
			continue
		}
		nats := child(m.pid(), "nats-server")
		// etcd ends by the signal itself.
		if err := m.stop(30 * time.Second); err != nil && s.options.backend == "jetway" {
			problems = append(problems, err)
		}
		if nats != 0 && !gone(nats) {
			problems = append(problems, fmt.Errorf("nats-server (pid %d) outlived jetway", nats))
		}
	}
	return errors.Join(problems...)
}

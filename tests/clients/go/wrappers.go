package main

import (
	"context"
	"fmt"
	"net"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"go.etcd.io/etcd/client/v3/ordering"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// leasingCache has two clients that own keys by leases and answer reads of those from memory.
func leasingCache(s *session) {
	one, closeOne := must2(leasing.NewKV(s.client, "leasing/", concurrency.WithTTL(5)))
	two, closeTwo := must2(leasing.NewKV(s.client, "leasing/", concurrency.WithTTL(5)))
	defer closeTwo()
	s.put("cached", "1")
	s.found("acquired", must(one.Get(s.ctx, "cached")))
	fmt.Println("owned by a key", s.get("leasing/", clientv3.WithPrefix(), clientv3.WithCountOnly()).Count)
	s.found("from the cache", must(one.Get(s.ctx, "cached")))
	must(two.Put(s.ctx, "cached", "2"))
	s.found("rescinded", must(one.Get(s.ctx, "cached")))
	must(one.Put(s.ctx, "cached", "3"))
	s.found("by the other", must(two.Get(s.ctx, "cached")))
	r := must(two.Txn(s.ctx).If(clientv3.Compare(clientv3.Value("cached"), "=", "3")).
		Then(clientv3.OpPut("cached", "4"), clientv3.OpGet("cached")).Commit())
	fmt.Println("transaction", r.Succeeded, len(r.Responses))
	d := must(one.Delete(s.ctx, "cach", clientv3.WithPrefix(), clientv3.WithPrevKV()))
	fmt.Println("deleted", d.Deleted, s.kvs(d.PrevKvs))
	s.found("none", must(two.Get(s.ctx, "cached")))
	closeOne()
	must(two.Put(s.ctx, "cached", "5"))
	s.found("with one gone", must(two.Get(s.ctx, "cached")))
}

func must2[A, B any](a A, b B, err error) (A, B) {
	done(err)
	return a, b
}

func namespaces(s *session) {
	client := s.connect("", "")
	defer client.Close()
	client.KV = namespace.NewKV(client.KV, "ns/")
	client.Watcher = namespace.NewWatcher(client.Watcher, "ns/")
	client.Lease = namespace.NewLease(client.Lease, "ns/")
	lease := must(client.Grant(s.ctx, 600)).ID
	must(client.Put(s.ctx, "a", "1", clientv3.WithLease(lease)))
	must(client.Put(s.ctx, "b", "2"))
	s.found("inside", must(client.Get(s.ctx, "", clientv3.WithPrefix())))
	s.found("from key", must(client.Get(s.ctx, "b", clientv3.WithFromKey())))
	s.found("outside", s.get("ns/", clientv3.WithPrefix()))
	r := must(client.Txn(s.ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).Then(clientv3.OpDelete("a", clientv3.WithPrevKV())).Commit())
	fmt.Println("transaction", r.Succeeded, s.kvs(r.Responses[0].GetResponseDeleteRange().PrevKvs))
	s.events("inside", client.Watch(s.ctx, "", clientv3.WithPrefix(), clientv3.WithRev(s.base+1)), 3)
	must(client.Put(s.ctx, "c", "", clientv3.WithLease(lease)))
	fmt.Printf("keys %s\n", must(client.TimeToLive(s.ctx, lease, clientv3.WithAttachedKeys())).Keys)
	must(client.Revoke(s.ctx, lease))
}

func orderedReads(s *session) {
	kv := ordering.NewKV(s.client.KV, ordering.NewOrderViolationSwitchEndpointClosure(s.client))
	must(kv.Put(s.ctx, "o/a", "1"))
	s.found("linearizable", must(kv.Get(s.ctx, "o/a")))
	s.found("serializable", must(kv.Get(s.ctx, "o/a", clientv3.WithSerializable())))
	r := must(kv.Txn(s.ctx).Then(clientv3.OpGet("o/a")).Commit())
	fmt.Println("transaction", r.Succeeded, s.rel(r.Header.Revision))
}

func mirrored(s *session) {
	for i := range 3 {
		s.put(fmt.Sprint("mirror/", i), "x")
	}
	syncer := mirror.NewSyncer(s.client, "mirror/", 0)
	answers, errors := syncer.SyncBase(s.ctx)
	for answer := range answers {
		s.found("base", answer)
	}
	for err := range errors {
		done(err)
	}
	s.put("mirror/1", "y")
	must(s.client.Delete(s.ctx, "mirror/2"))
	s.events("update", syncer.SyncUpdates(s.ctx), 2)
}

// naming finds a server of another service by its name.
func naming(s *session) {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	service := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(service, health.NewServer())
	go service.Serve(listener)
	defer service.Stop()

	manager := must(endpoints.NewManager(s.client, "service"))
	changes := must(manager.NewWatchChannel(s.ctx))
	address := listener.Addr().String()
	done(manager.AddEndpoint(s.ctx, "service/one", endpoints.Endpoint{Addr: address, Metadata: "one"}))
	for _, change := range next(s, "the endpoint", changes) {
		fmt.Println("change", change.Op, change.Key, change.Endpoint.Addr == address, change.Endpoint.Metadata)
	}
	builder := must(resolver.NewBuilder(s.client))
	connection := must(grpc.NewClient("etcd:///service", grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer connection.Close()
	answer := must(grpc_health_v1.NewHealthClient(connection).Check(s.ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true)))
	fmt.Println("found by its name:", answer.Status)

	fmt.Println("listed", len(must(manager.List(s.ctx))))
	done(manager.Update(s.ctx, []*endpoints.UpdateWithOpts{
		endpoints.NewAddUpdateOpts("service/two", endpoints.Endpoint{Addr: "127.0.0.1:1"}),
		endpoints.NewDeleteUpdateOpts("service/one"),
	}))
	for _, change := range next(s, "the update", changes) {
		fmt.Println("change", change.Op, change.Key)
	}
	done(manager.DeleteEndpoint(s.ctx, "service/two"))
	fmt.Println("listed", len(must(manager.List(s.ctx))))
	refused("outside of its name", manager.AddEndpoint(context.Background(), "elsewhere", endpoints.Endpoint{}))
}

// kubernetesInterface is the small client that the apiserver uses.
func kubernetesInterface(s *session) {
	client := must(kubernetes.New(s.config("", "")))
	defer client.Close()
	created := must(client.Kubernetes.OptimisticPut(s.ctx, "kube/a", []byte("1"), 0, kubernetes.PutOptions{}))
	fmt.Println("created", created.Succeeded, s.rel(created.Revision))
	conflict := must(client.Kubernetes.OptimisticPut(s.ctx, "kube/a", []byte("2"), 0, kubernetes.PutOptions{GetOnFailure: true}))
	fmt.Println("conflict", conflict.Succeeded, s.kv(conflict.KV))
	updated := must(client.Kubernetes.OptimisticPut(s.ctx, "kube/a", []byte("2"), created.Revision, kubernetes.PutOptions{}))
	fmt.Println("updated", updated.Succeeded)
	must(client.Kubernetes.OptimisticPut(s.ctx, "kube/b", []byte("1"), 0, kubernetes.PutOptions{}))
	page := must(client.Kubernetes.List(s.ctx, "kube/", kubernetes.ListOptions{Limit: 1}))
	fmt.Println("page", s.kvs(page.Kvs), page.Count)
	page = must(client.Kubernetes.List(s.ctx, "kube/", kubernetes.ListOptions{Continue: "kube/a\x00", Revision: page.Revision}))
	fmt.Println("page", s.kvs(page.Kvs), page.Count)
	fmt.Println("count", must(client.Kubernetes.Count(s.ctx, "kube/", kubernetes.CountOptions{})))
	fmt.Println("get", s.kv(must(client.Kubernetes.Get(s.ctx, "kube/a", kubernetes.GetOptions{})).KV))
	gone := must(client.Kubernetes.OptimisticDelete(s.ctx, "kube/a", created.Revision, kubernetes.DeleteOptions{GetOnFailure: true}))
	fmt.Println("stale delete", gone.Succeeded, s.kv(gone.KV))
	gone = must(client.Kubernetes.OptimisticDelete(s.ctx, "kube/a", updated.Revision, kubernetes.DeleteOptions{}))
	fmt.Println("delete", gone.Succeeded)
}

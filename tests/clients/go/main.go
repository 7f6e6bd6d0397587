// A session of etcd's own Go client, with its recipes, against the server at the endpoint it is given.
//
// Each step asserts what must hold on any server and prints what it saw; the test that runs this on etcd and
// on another server compares the lines. A line that begins with `@` asks the test for something: the server's
// end by SIGTERM (`@stop`) or SIGKILL (`@kill`), or its next start (`@serve`). An empty line on the standard
// input says that it is done. If CERTIFICATES names a folder, the client shows the server that of `reader`
// and trusts the authority in it.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// patience bounds each step.
const patience = 60 * time.Second

var steps = []struct {
	name string
	run  func(*session)
}{
	{"keys", keys},
	{"streamed ranges", streamedRanges},
	{"transactions", transactions},
	{"watches", watches},
	{"compaction", compaction},
	{"leases", leases},
	{"mutexes", mutexes},
	{"elections", elections},
	{"software transactional memory", stm},
	{"barriers", barriers},
	{"queues", queues},
	{"read-write mutexes", rwMutexes},
	{"leasing", leasingCache},
	{"namespaces", namespaces},
	{"ordering", orderedReads},
	{"mirror", mirrored},
	{"naming", naming},
	{"kubernetes", kubernetesInterface},
	{"maintenance", maintenance},
	{"restarts", restarts},
	{"users", users},
}

// session is what a step works with.
type session struct {
	ctx      context.Context
	client   *clientv3.Client
	endpoint string
	input    *bufio.Reader
	// The revision at the step's start, from which the revisions it prints count.
	base int64
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: clients-go ENDPOINT [STEP...]")
		os.Exit(2)
	}
	input := bufio.NewReader(os.Stdin)
	failed := false
	for _, step := range steps {
		if len(os.Args) > 2 && !slices.Contains(os.Args[2:], step.name) {
			continue
		}
		fmt.Printf("# %s\n", step.name)
		failed = !attempt(step.run, os.Args[1], input) || failed
	}
	if failed {
		os.Exit(1)
	}
}

// attempt runs one step with a client of its own, and prints what stopped it.
func attempt(run func(*session), endpoint string, input *bufio.Reader) (ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer func() {
		if problem := recover(); problem != nil {
			fmt.Println("FAILED:", problem)
			ok = false
		}
	}()
	s := &session{ctx: ctx, endpoint: endpoint, input: input}
	s.client = s.connect("", "")
	defer s.client.Close()
	s.base = must(s.client.Get(ctx, "base")).Header.Revision
	run(s)
	return true
}

// connect returns a client of the server, as a user where one is named.
func (s *session) connect(user, password string) *clientv3.Client {
	return must(clientv3.New(s.config(user, password)))
}

func (s *session) config(user, password string) clientv3.Config {
	var secure *tls.Config
	if folder := os.Getenv("CERTIFICATES"); folder != "" {
		info := transport.TLSInfo{
			CertFile:      filepath.Join(folder, "reader.pem"),
			KeyFile:       filepath.Join(folder, "reader.key"),
			TrustedCAFile: filepath.Join(folder, "ca.pem"),
		}
		secure = must(info.ClientConfig())
	}
	return clientv3.Config{
		TLS:         secure,
		Endpoints:   []string{s.endpoint},
		DialTimeout: 30 * time.Second,
		Username:    user,
		Password:    password,
		Logger:      zap.NewNop(),
	}
}

// ask has the test do something to the server.
func (s *session) ask(what string) {
	fmt.Printf("@%s\n", what)
	must(s.input.ReadString('\n'))
}

func (s *session) put(key, value string, options ...clientv3.OpOption) *clientv3.PutResponse {
	return must(s.client.Put(s.ctx, key, value, options...))
}

func (s *session) get(key string, options ...clientv3.OpOption) *clientv3.GetResponse {
	return must(s.client.Get(s.ctx, key, options...))
}

// rel is a revision as a distance from that at the step's start; what contends before it writes more or less
// often.
func (s *session) rel(revision int64) int64 {
	if revision == 0 {
		return 0
	}
	return revision - s.base
}

func (s *session) kv(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "none"
	}
	return fmt.Sprintf("%s=%q created %d modified %d version %d leased %t",
		kv.Key, kv.Value, s.rel(kv.CreateRevision), s.rel(kv.ModRevision), kv.Version, kv.Lease != 0)
}

func (s *session) kvs(kvs []*mvccpb.KeyValue) string {
	var texts []string
	for _, kv := range kvs {
		texts = append(texts, s.kv(kv))
	}
	return "[" + strings.Join(texts, "; ") + "]"
}

func (s *session) found(what string, r *clientv3.GetResponse) {
	fmt.Printf("%s at %d: %s more %t count %d\n", what, s.rel(r.Header.Revision), s.kvs(r.Kvs), r.More, r.Count)
}

func (s *session) event(event *clientv3.Event) string {
	return fmt.Sprintf("%s %s before %s", event.Type, s.kv(event.Kv), s.kv(event.PrevKv))
}

// refused prints the error of a call that must fail.
func refused(what string, err error) {
	check(err != nil, "%s: must be refused", what)
	fmt.Printf("%s: %s\n", what, describe(err))
}

// describe is what a program can tell of an error: its code and its text.
func describe(err error) string {
	if etcd, ok := rpctypes.Error(err).(rpctypes.EtcdError); ok {
		return fmt.Sprintf("%s: %s", etcd.Code(), etcd.Error())
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return fmt.Sprintf("%s: %s", s.Code(), s.Message())
	}
	return err.Error()
}

func must[T any](value T, err error) T {
	done(err)
	return value
}

func done(err error) {
	if err != nil {
		panic(describe(err))
	}
}

func check(holds bool, what string, values ...any) {
	if !holds {
		panic(fmt.Sprintf(what, values...))
	}
}

// next waits for a value of the channel.
func next[T any](s *session, what string, channel <-chan T) T {
	select {
	case value, open := <-channel:
		check(open, "%s: the channel is closed", what)
		return value
	case <-s.ctx.Done():
		panic("waited in vain for " + what)
	}
}

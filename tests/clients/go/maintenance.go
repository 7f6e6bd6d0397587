package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
)

func maintenance(s *session) {
	state := must(s.client.Status(s.ctx, s.endpoint))
	check(state.Leader == state.Header.MemberId, "the only member leads")
	fmt.Println("status", s.rel(state.Header.Revision), state.IsLearner, state.Errors, state.DbSize > 0, state.DbSize >= state.DbSizeInUse)
	must(s.client.Defragment(s.ctx, s.endpoint))
	fmt.Println("alarms", len(must(s.client.AlarmList(s.ctx)).Alarms))
	hash := must(s.client.HashKV(s.ctx, s.endpoint, 0))
	again := must(s.client.HashKV(s.ctx, s.endpoint, hash.HashRevision))
	check(hash.Hash == again.Hash, "a hash is of its revision")
	fmt.Println("hash of revision", s.rel(hash.HashRevision))
	_, err := s.client.HashKV(s.ctx, s.endpoint, s.base+1000)
	refused("hash of the future", err)
	_, err = s.client.MoveLeader(s.ctx, 1234)
	refused("move the leader", err)
	_, err = s.client.Downgrade(s.ctx, clientv3.DowngradeValidate, "nonsense")
	refused("downgrade", err)

	members := must(s.client.MemberList(s.ctx)).Members
	fmt.Println("members", len(members), members[0].Name, members[0].IsLearner, members[0].ClientURLs[0] == s.endpoint)
	_, err = s.client.MemberRemove(s.ctx, 1234)
	refused("remove a member", err)
	_, err = s.client.MemberUpdate(s.ctx, 1234, []string{"http://127.0.0.1:1"})
	refused("update a member", err)
	_, err = s.client.MemberPromote(s.ctx, 1234)
	refused("promote a member", err)
	done(s.client.Sync(s.ctx))
	fmt.Println("endpoints", len(s.client.Endpoints()), s.client.Endpoints()[0] == s.endpoint)

	folder := must(os.MkdirTemp("", "jetway-clients-"))
	defer os.RemoveAll(folder)
	fmt.Println("snapshot", must(snapshot.SaveWithVersion(s.ctx, zap.NewNop(), s.config("", ""), filepath.Join(folder, "db"))))

	_, err = s.client.Put(s.ctx, "large", strings.Repeat("x", 1_572_864))
	refused("a request above the limit", err)
	check(err == rpctypes.ErrRequestTooLarge, "a client can tell by comparing")
}

package main

import (
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func leases(s *session) {
	lease := must(s.client.Grant(s.ctx, 600))
	fmt.Println("granted", lease.TTL)
	s.put("l/a", "x", clientv3.WithLease(lease.ID))
	s.put("l/b", "y", clientv3.WithLease(lease.ID))
	s.found("leased", s.get("l/", clientv3.WithPrefix()))
	left := must(s.client.TimeToLive(s.ctx, lease.ID, clientv3.WithAttachedKeys()))
	check(left.TTL > 500 && left.TTL <= 600, "%d seconds are left", left.TTL)
	fmt.Println("granted", left.GrantedTTL, "with", len(left.Keys), "keys")
	listed := must(s.client.Leases(s.ctx)).Leases
	fmt.Println("listed", len(listed), listed[len(listed)-1].ID == lease.ID)
	fmt.Println("renewed once", must(s.client.KeepAliveOnce(s.ctx, lease.ID)).TTL)
	s.put("l/b", "free")
	must(s.client.Revoke(s.ctx, lease.ID))
	s.found("revoked", s.get("l/", clientv3.WithPrefix()))
	_, err := s.client.Revoke(s.ctx, lease.ID)
	refused("revoke again", err)
	_, err = s.client.KeepAliveOnce(s.ctx, lease.ID)
	refused("renew what is gone", err)
	fmt.Println("gone", must(s.client.TimeToLive(s.ctx, lease.ID)).TTL)
	_, err = s.client.Grant(s.ctx, 10_000_000_000)
	refused("too long", err)

	// One lease that is kept alive longer than it lives, and one that is not.
	kept, left2 := must(s.client.Grant(s.ctx, 5)), must(s.client.Grant(s.ctx, 5))
	s.put("l/kept", "", clientv3.WithLease(kept.ID))
	s.put("l/left", "", clientv3.WithLease(left2.ID))
	alive := must(s.client.KeepAlive(s.ctx, kept.ID))
	gone := s.client.Watch(s.ctx, "l/left")
	s.events("expired", gone, 1)
	for range 3 {
		check(next(s, "renewal", alive).TTL == 5, "it is renewed for its whole time")
	}
	s.found("kept", s.get("l/kept", clientv3.WithKeysOnly()))
	must(s.client.Revoke(s.ctx, kept.ID))
	for range alive {
	}
	fmt.Println("the renewals end with the lease")
}

package main

import (
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func users(s *session) {
	_, err := s.client.AuthEnable(s.ctx)
	refused("enable without root", err)
	must(s.client.UserAdd(s.ctx, "root", "secret"))
	_, err = s.client.UserAdd(s.ctx, "root", "secret")
	refused("add twice", err)
	must(s.client.UserAdd(s.ctx, "reader", "read-it"))
	must(s.client.UserAddWithOptions(s.ctx, "certified", "", &clientv3.UserAddOptions{NoPassword: true}))
	must(s.client.RoleAdd(s.ctx, "root"))
	must(s.client.RoleAdd(s.ctx, "readers"))
	must(s.client.RoleGrantPermission(s.ctx, "readers", "u/", clientv3.GetPrefixRangeEnd("u/"), clientv3.PermissionType(clientv3.PermRead)))
	must(s.client.RoleGrantPermission(s.ctx, "readers", "own", "", clientv3.PermissionType(clientv3.PermReadWrite)))
	must(s.client.UserGrantRole(s.ctx, "root", "root"))
	must(s.client.UserGrantRole(s.ctx, "reader", "readers"))
	role := must(s.client.RoleGet(s.ctx, "readers"))
	for _, p := range role.Perm {
		fmt.Printf("permission %s %q %q\n", p.PermType, p.Key, p.RangeEnd)
	}
	s.put("u/a", "1")
	must(s.client.AuthEnable(s.ctx))

	_, err = s.client.Get(s.ctx, "u/a")
	refused("without a name", err)
	_, err = clientv3.New(s.config("reader", "wrong"))
	refused("with a wrong password", err)
	_, err = clientv3.New(s.config("nobody", "x"))
	refused("with a wrong name", err)
	root, reader := s.connect("root", "secret"), s.connect("reader", "read-it")
	defer root.Close()
	defer reader.Close()
	fmt.Println("status", must(root.AuthStatus(s.ctx)).Enabled)
	s.found("root", must(root.Get(s.ctx, "u/", clientv3.WithPrefix())))
	s.found("reader", must(reader.Get(s.ctx, "u/", clientv3.WithPrefix())))
	_, err = reader.Get(s.ctx, "", clientv3.WithPrefix())
	refused("everything", err)
	_, err = reader.Put(s.ctx, "u/a", "2")
	refused("write", err)
	_, err = reader.UserList(s.ctx)
	refused("list users", err)
	_, err = reader.Txn(s.ctx).If(clientv3.Compare(clientv3.Value("hidden"), "=", "")).Then(clientv3.OpGet("u/a")).Commit()
	refused("compare what is hidden", err)
	_, err = reader.Txn(s.ctx).Then(clientv3.OpGet("u/a")).Else(clientv3.OpPut("hidden", "")).Commit()
	refused("write what is hidden, if", err)
	must(reader.Put(s.ctx, "own", "1"))
	fmt.Println("own user", must(reader.UserGet(s.ctx, "reader")).Roles)

	hidden := next(s, "the refusal", reader.Watch(s.ctx, "hidden"))
	fmt.Println("watch", hidden.Canceled, describe(hidden.Err()))
	seen := reader.Watch(s.ctx, "u/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	next(s, "creation", seen)
	must(root.Put(s.ctx, "u/b", "1"))
	s.events("seen", seen, 1)

	// The rights of a token follow the roles, and a token outlives neither its user nor, with simple tokens, the
	// server.
	must(root.RoleRevokePermission(s.ctx, "readers", "own", ""))
	_, err = reader.Put(s.ctx, "own", "2")
	refused("write after the revocation", err)
	must(root.RoleGrantPermission(s.ctx, "readers", "own", "", clientv3.PermissionType(clientv3.PermReadWrite)))
	must(reader.Put(s.ctx, "own", "3"))
	s.ask("stop")
	s.ask("serve")
	must(reader.Put(s.ctx, "own", "4"))
	s.found("after the restart", must(reader.Get(s.ctx, "own")))
	must(root.UserChangePassword(s.ctx, "reader", "read-more"))
	_, err = clientv3.New(s.config("reader", "read-it"))
	refused("with the old password", err)
	must(root.UserDelete(s.ctx, "reader"))
	_, err = reader.Get(s.ctx, "own")
	refused("deleted", err)
	_, err = root.UserDelete(s.ctx, "root")
	refused("delete root", err)
	fmt.Println("users", must(root.UserList(s.ctx)).Users, "roles", must(root.RoleList(s.ctx)).Roles)
	must(root.AuthDisable(s.ctx))
	s.found("for everybody again", s.get("own"))
}

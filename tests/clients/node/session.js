// A session of the etcd client for Node: `node session.js ENDPOINT`, with the client in NODE_PATH.
//
// It prints what it saw, for the test that compares the lines with those of a run on etcd. A line that begins with `@` asks
// that test to stop the server or to start it again; an empty line on the standard input says that it is done.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const readline = require('node:readline');
const { Etcd3 } = require('etcd3');

// The package names them in TypeScript only.
const Isolation = { SerializableSnapshot: 0, Serializable: 1, RepeatableReads: 2 };

const endpoint = process.argv[2];
const done = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function say(...parts) {
  console.log(parts.map((part) => (typeof part === 'string' ? part : JSON.stringify(part))).join(' '));
}

async function ask(what) {
  console.log(`@${what}`);
  await done.next();
}

// The error that a call must end in: its class and its text are what a program sees.
async function refused(what, call) {
  const error = await call.then(
    () => assert.fail(`${what}: must be refused`),
    (error) => error,
  );
  say(`${what}: ${error.name === 'Error' ? error.constructor.name : error.name}: ${error.message}`);
}

function text(kv) {
  return kv && { key: kv.key.toString(), value: kv.value.toString(), version: kv.version };
}

async function keys(etcd) {
  await etcd.put('a').value('1');
  const before = await etcd.put('a').value('2').getPrevious();
  say('before', text(before));
  await etcd.put('b').value(7);
  await etcd.put('c').value('{"deep":[1,2]}');
  await etcd.put('bytes').value(Buffer.from([0, 255, 10]));
  say('one', await etcd.get('a'), await etcd.get('a').string(), await etcd.get('missing'));
  say('typed', await etcd.get('b').number(), await etcd.get('c').json(), [...(await etcd.get('bytes').buffer())]);
  say('exists', await etcd.get('a').exists(), await etcd.get('missing').exists());
  say('all', await etcd.getAll().keys());
  say('range', await etcd.getAll().inRange({ start: 'a', end: 'c' }).strings());
  say('prefix', await etcd.getAll().prefix('b').keys());
  say('sorted', await etcd.getAll().sort('Key', 'Descend').limit(2).keys(), await etcd.getAll().count());
  const answer = await etcd.get('a').exec();
  say('raw', answer.count, answer.more, text(answer.kvs[0]));
  const first = answer.kvs[0].create_revision;
  say('past', await etcd.get('a').revision(first), await etcd.getAll().revision(first).keys());
  say('serializable', await etcd.get('a').serializable(true));
  say('modified since', await etcd.getAll().minModRevision(answer.kvs[0].mod_revision).keys());
  await etcd.put('a').touch();
  say('touched', text((await etcd.get('a').exec()).kvs[0]));
  await refused('future', etcd.get('a').revision('999999').exec());
  await refused('no such lease', etcd.put('a').value('x').lease('1234').exec());
  const gone = await etcd.delete().key('a').getPrevious();
  say('deleted', gone.map(text));
  say('deleted', (await etcd.delete().prefix('b')).deleted, (await etcd.delete().all()).deleted);
}

async function namespaces(etcd) {
  const space = etcd.namespace('space/');
  await space.put('a').value('inside');
  await etcd.put('a').value('outside');
  say('inside', await space.get('a'), await space.getAll().keys());
  say('outside', await etcd.get('space/a'), await etcd.getAll().keys());
  say('nested', await space.namespace('deeper/').put('x').value('1').then(() => etcd.getAll().prefix('space/').keys()));
  await space.delete().all();
  say('left', await etcd.getAll().keys());
  await etcd.delete().all();
}

async function transactions(etcd) {
  await etcd.put('t').value('1');
  const won = await etcd
    .if('t', 'Value', '==', '1')
    .and('t', 'Version', '>', 0)
    .and('new', 'Create', '==', 0)
    .then(etcd.put('t').value('2'), etcd.get('t'))
    .else(etcd.get('t'))
    .commit();
  say('won', won.succeeded, text(won.responses[1].response_range.kvs[0]));
  const lost = await etcd.if('t', 'Value', '!==', '2').then(etcd.delete().key('t')).else(etcd.get('t')).commit();
  say('lost', lost.succeeded, text(lost.responses[0].response_range.kvs[0]));
  await refused('twice', etcd.if('t', 'Value', '==', '2').then(etcd.put('x').value('1'), etcd.put('x').value('2')).commit());

  for (const isolation of Object.values(Isolation)) {
    await etcd.put('count').value(0);
    await Promise.all(
      Array.from({ length: 4 }, () =>
        etcd.stm({ isolation, retries: 50 }).transact(async (tx) => {
          const count = await tx.get('count').number();
          await tx.put('count').value(count + 1);
        }),
      ),
    );
    say('counted', await etcd.get('count').number());
  }
  await etcd.delete().all();
}

// Collects the events of a watcher until there are `count`.
async function events(watcher, count) {
  const seen = [];
  for (const kind of ['put', 'delete']) {
    watcher.on(kind, (kv, previous) => seen.push([kind, text(kv), text(previous)]));
  }
  return async () => {
    while (seen.length < count) await once(watcher, 'data');
    // The answer's own listeners run one by one, this one among them.
    await new Promise(setImmediate);
    assert.equal(seen.length, count);
    return seen;
  };
}

async function watches(etcd) {
  const watcher = await etcd.watch().prefix('w/').withPreviousKV().create();
  const seen = await events(watcher, 4);
  await etcd.put('w/a').value('1');
  await etcd.put('w/a').value('2');
  await etcd.delete().key('w/a');
  await etcd.put('elsewhere').value('x');
  await etcd.put('w/b').value('1');
  for (const event of await seen()) say('event', event);
  await watcher.cancel();

  const { create_revision: first } = (await etcd.get('w/b').exec()).kvs[0];
  const past = etcd.watch().prefix('w/').only('delete').startRevision(String(first - 4)).watcher();
  const deletions = await events(past, 1);
  for (const event of await deletions()) say('past', event);
  await past.cancel();

  const live = await etcd.watch().key('w/c').create();
  const all = await events(live, 2);
  await etcd.put('w/c').value('before');
  await once(live, 'data');
  await ask('kill');
  await once(live, 'disconnected');
  const again = once(live, 'connected');
  await ask('serve');
  await again;
  await etcd.put('w/c').value('after');
  for (const event of await all()) say('over a restart', event);
  await live.cancel();
  await etcd.delete().all();
}

async function leases(etcd) {
  const lease = etcd.lease(60);
  await lease.put('l/a').value('x');
  const { kvs } = await etcd.get('l/a').exec();
  assert.equal(BigInt(kvs[0].lease), BigInt(await lease.grant()));
  say('renewed', (await lease.keepaliveOnce()).TTL);
  await lease.revoke();
  say('revoked', await etcd.get('l/a'), lease.revoked());
  await refused('renew what is gone', lease.keepaliveOnce());

  const short = etcd.lease(2, { autoKeepAlive: false });
  await short.put('l/short').value('x');
  const watcher = await etcd.watch().key('l/short').create();
  await once(watcher, 'delete');
  say('expired', await etcd.get('l/short'));
  await watcher.cancel();

  const kept = etcd.lease(2);
  await kept.put('l/kept').value('x');
  for (let renewals = 0; renewals < 4; renewals += 1) await once(kept, 'keepaliveSucceeded');
  say('kept', await etcd.get('l/kept'));
  const lost = once(kept, 'lost');
  await etcd.leaseClient.leaseRevoke({ ID: await kept.grant() });
  say('lost', (await lost)[0].constructor.name, await etcd.get('l/kept'));
}

async function locks(etcd) {
  const one = etcd.lock('turn').ttl(60);
  const two = etcd.lock('turn').ttl(60);
  await one.acquire();
  await refused('held', two.acquire());
  await one.release();
  await two.acquire();
  say('in turn', (await etcd.getAll().keys()).length);
  await two.release();
  say('free', await etcd.getAll().keys());
  say('in a block', await etcd.lock('turn').do(() => 'done'));

  const election = etcd.election('crown', 60);
  const observer = await election.observe();
  const first = election.campaign('one');
  await first.wait();
  while (observer.leader() !== 'one') await once(observer, 'change');
  say('leader', await election.leader());
  await first.proclaim('one again');
  while (observer.leader() !== 'one again') await once(observer, 'change');
  const second = election.campaign('two');
  const elected = once(second, 'elected');
  await second.getCampaignKey();
  say('still', await election.leader());
  await first.resign();
  await elected;
  while (observer.leader() !== 'two') await once(observer, 'change');
  say('then', await election.leader());
  await second.resign();
  await observer.cancel();
  say('nobody', (await election.leader()) ?? 'none', await etcd.getAll().keys());
}

async function maintenance(etcd) {
  const status = await etcd.maintenance.status();
  say('status', status.version.split('.').slice(0, 2), status.leader === status.header.member_id);
  const { members } = await etcd.cluster.memberList({});
  say('members', members.length, members[0].name, members[0].clientURLs[0] === endpoint);
  say('alarms', (await etcd.maintenance.alarm({ action: 'Get' })).alarms);
  await etcd.maintenance.defragment();
  const { header } = await etcd.put('c').value('x').exec();
  await etcd.kv.compact({ revision: header.revision, physical: true });
  await refused('compacted', etcd.get('c').revision(1).exec());
  const lagging = etcd.watch().key('c').startRevision('1').watcher();
  const error = await new Promise((resolve) => lagging.on('error', resolve));
  say('watch below', error.constructor.name, error.message);
  await etcd.delete().all();
}

async function users(etcd) {
  const role = await etcd.role('readers').create();
  await role.grant({ permission: 'Read', range: etcd.range({ prefix: 'u/' }) });
  await role.grant({ permission: 'Readwrite', key: 'own' });
  say('permissions', (await role.permissions()).map(({ permission, range }) => [permission, range.start.toString(), range.end.toString()]));
  await refused('role twice', etcd.role('readers').create());
  const root = await etcd.user('root').create('secret');
  await root.addRole(await etcd.role('root').create());
  const reader = await etcd.user('reader').create('read-it');
  await reader.addRole(role);
  await refused('user twice', etcd.user('reader').create('x'));
  await refused('role that is none', reader.addRole('nobody'));
  say('roles', (await reader.roles()).map(({ name }) => name));
  await etcd.put('u/a').value('1');
  await etcd.auth.authEnable();
  await refused('without a name', etcd.get('u/a').exec());

  const as = (username, password) => new Etcd3({ hosts: endpoint, auth: { username, password } });
  const asReader = as('reader', 'read-it');
  const asRoot = as('root', 'secret');
  const wrong = as('reader', 'wrong');
  await refused('wrong password', wrong.get('u/a').exec());
  wrong.close();
  say('reader', await asReader.get('u/a'), await asReader.getAll().prefix('u/').keys());
  await refused('everything', asReader.getAll().exec());
  await refused('write', asReader.put('u/a').value('2').exec());
  await asReader.put('own').value('1');
  await role.revoke({ permission: 'Readwrite', key: 'own' }).then(
    () => assert.fail('without a name nothing is revoked'),
    () => asRoot.role('readers').revoke({ permission: 'Readwrite', key: 'own' }),
  );
  await refused('after the revocation', asReader.put('own').value('2').exec());
  say('users', (await asRoot.getUsers()).map(({ name }) => name), (await asRoot.getRoles()).map(({ name }) => name));
  await asRoot.user('reader').delete();
  await asRoot.auth.authDisable();
  say('for everybody again', await etcd.get('own'));
  asReader.close();
  asRoot.close();
}

async function main() {
  for (const step of [keys, namespaces, transactions, watches, leases, locks, maintenance, users]) {
    say('#', step.name);
    const etcd = new Etcd3({ hosts: endpoint });
    await step(etcd);
    etcd.close();
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.log('FAILED:', error);
    process.exit(1);
  },
);

import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../../base/clock.ts';
import { silentLogger } from '../../logger.ts';
import { ApiServer } from './api-server.fixture.ts';
import { KubernetesClient } from './client.ts';
import { type Followed, follow } from './follow.ts';
import { CONFIG_MAPS } from './resources.ts';

const COLLECTION = '/api/v1/namespaces/edge/configmaps';

let api: ApiServer;
let client: KubernetesClient;
let stop: AbortController;
let followed: Followed<string>;
const changes: string[] = [];

const map = (name: string, value: string) => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name, labels: { [name]: 'yes' } },
  data: { value },
});
const lists = () => api.requests.filter((request) => /^GET .*limit=/.test(request)).length;
const known = () => Object.fromEntries(followed.items);
const eventually = (check: () => void) => vi.waitFor(check, { timeout: 30_000, interval: 20 });

beforeEach(async () => {
  api = new ApiServer();
  const server = await api.start();
  client = new KubernetesClient({ server, namespace: 'edge' });
  stop = new AbortController();
  changes.length = 0;
});
afterEach(async () => {
  stop.abort();
  await followed.ended;
  await client.close();
  await api.stop();
});

function begin(labelSelector?: string): void {
  followed = follow<string>({
    client,
    resource: CONFIG_MAPS,
    selection: { namespace: 'edge', labelSelector },
    keep: ({ data }) => (data as { value: string }).value,
    onChange: (key, now) => changes.push(`${key} ${now}`),
    clock: systemClock,
    logger: silentLogger,
    signal: stop.signal,
    firstBackoffMs: 10,
  });
}

/** A watch is open, on a server that answers again. */
const watching = () => eventually(() => expect(api.watching).toBe(1));

test('lists page by page, then watches what is added, changed and removed', async () => {
  for (let i = 0; i < 300; i++) api.put(COLLECTION, map(`m${i}`, 'old'));
  api.put('/api/v1/namespaces/other/configmaps', map('elsewhere', 'old'));
  begin();
  await followed.listed;
  expect([followed.items.size, lists()]).toEqual([300, 2]);
  await watching();
  api.put(COLLECTION, map('m0', 'new'));
  api.put(COLLECTION, map('added', 'new'));
  api.remove(COLLECTION, 'm1');
  await eventually(() =>
    expect(changes.slice(300)).toEqual(['edge/m0 new', 'edge/added new', 'edge/m1 undefined']),
  );
  expect(followed.items.size).toBe(300);
});

test('follows only what is selected', async () => {
  api.put(COLLECTION, map('a', '1'));
  api.put(COLLECTION, map('b', '1'));
  begin('a=yes');
  await followed.listed;
  await watching();
  api.put(COLLECTION, map('b', '2'));
  api.put(COLLECTION, map('a', '2'));
  await eventually(() => expect(known()).toEqual({ 'edge/a': '2' }));
});

test('goes on where a broken watch ended, without another list', async () => {
  api.put(COLLECTION, map('a', '1'));
  begin();
  await followed.listed;
  await watching();
  api.cutWatches();
  api.put(COLLECTION, map('a', '2'));
  api.put(COLLECTION, map('b', '1'));
  await eventually(() => expect(known()).toEqual({ 'edge/a': '2', 'edge/b': '1' }));
  expect(lists()).toBe(1);
});

test('a bookmark is late enough to go on from when all before it is forgotten', async () => {
  api.bookmarkMs = 20;
  begin('mine=yes');
  await followed.listed;
  await watching();
  // Nothing of this is selected, so only bookmarks tell that time passes.
  const last = Number(api.put(COLLECTION, map('other', '1')).metadata.resourceVersion);
  await eventually(() => expect(api.bookmarked).toBe(last));
  api.compact();
  api.endWatches();
  await eventually(() => expect(api.requests.at(-1)).toContain(`resourceVersion=${last}&`));
  await watching();
  api.put(COLLECTION, map('mine', '1'));
  await eventually(() => expect(known()).toEqual({ 'edge/mine': '1' }));
  expect(lists()).toBe(1);
});

test('lists anew when its moment is forgotten, and finds what was removed meanwhile', async () => {
  api.bookmarkMs = 1e6;
  for (const name of ['a', 'b']) api.put(COLLECTION, map(name, '1'));
  begin();
  await followed.listed;
  await watching();
  api.fail = () => 503;
  api.cutWatches();
  api.remove(COLLECTION, 'a');
  api.put(COLLECTION, map('c', '1'));
  api.compact();
  api.fail = undefined;
  await eventually(() => expect(known()).toEqual({ 'edge/b': '1', 'edge/c': '1' }));
  expect(lists()).toBe(2);
  // The same told within a watch that is open.
  await watching();
  api.remove(COLLECTION, 'b');
  api.expireWatches();
  await eventually(() => expect(known()).toEqual({ 'edge/c': '1' }));
});

test('tries on while the server fails, answers slowly, or is forbidden', async () => {
  const failures = [500, 403, 429];
  api.delayMs = 20;
  api.fail = () => failures.shift();
  api.put(COLLECTION, map('a', '1'));
  begin();
  await followed.listed;
  expect([known(), failures]).toEqual([{ 'edge/a': '1' }, []]);
});

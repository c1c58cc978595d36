import { type IncomingMessage, request } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { InvalidArgumentError } from '../../base/errors.ts';
import { ModelNotFoundError } from '../../repository/errors.ts';
import { Access, type Tokens } from '../safety/tokens.ts';
import { Board, type Look } from './board.ts';
import { MAX_REPLAY_FRAMES, MAX_UNREAD_BYTES } from './event-stream.ts';
import { FleetBoard, type FleetDescription } from './fleet-board.ts';
import { FrameRing } from './frame-ring.ts';
import { type Overrides, type TaskOverride, withOverride } from './overrides.ts';
import { type ControlServer, controlLimits, createControlServer, type Watched } from './server.ts';

let control: ControlServer;
let board: Board;
let port: number;
let byTask: ReadonlyMap<string, TaskOverride>;
let fleet: FleetBoard;
/** What was asked of the fleet's servers. */
let drained: Map<string, boolean>;

const overrides: Overrides = {
  get byTask() {
    return byTask;
  },
  async pin(task, version) {
    if (task !== 'digits') throw new ModelNotFoundError(task);
    byTask = withOverride(byTask, task, { version });
  },
  setSlo(task, sloMs) {
    byTask = withOverride(byTask, task, { sloMs });
  },
};

let watched: Watched[];

const describeFleet = (state: string): FleetDescription => ({
  startedAtMs: 0,
  policy: 'plan',
  orchestrator: { isActive: true, pid: 1, host: 'box', term: 2, sinceMs: 0 },
  tasks: [],
  state,
});

async function listen(tokens: Tokens = {}, host = '127.0.0.1'): Promise<void> {
  byTask = new Map();
  board = new Board({
    server: 'here',
    ring: new FrameRing(400),
    describe: () => ({
      startedAtMs: 0,
      overrides: 'open',
      tasks: [
        { task: 'digits', isSloByHand: false, pinnedVersion: byTask.get('digits')?.version, versions: [] },
      ],
    }),
  });
  drained = new Map();
  fleet = new FleetBoard({ describe: () => describeFleet('the whole state') });
  watched = [{ board, overrides }];
  control = createControlServer({
    watched,
    fleet: {
      board: fleet,
      drain: async (server, isDrained) => {
        if (server !== 'edge-1') throw new InvalidArgumentError(`There is no ${server}.`);
        drained.set(server, isDrained);
      },
    },
    access: new Access(tokens),
    clock: { nowMs: () => 0, epochMs: () => 0 },
    host,
    onError: (thrown) => {
      throw thrown;
    },
  });
  await new Promise<void>((resolve) => control.server.listen(0, '127.0.0.1', resolve));
  port = (control.server.address() as AddressInfo).port; // A listening TCP server has one.
}

beforeEach(() => listen());
afterEach(close);

async function close(): Promise<void> {
  control.endStreams();
  control.server.closeAllConnections();
  await new Promise((resolve) => control.server.close(resolve));
}

const look = (atMs: number): Look => ({ atMs, spanMs: 1000, tasks: {} });

function push(count: number): void {
  for (let i = 0; i < count; i++) control.push(board, look(board.ring.lastSeq));
}

function open(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: string,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, method, path, headers }, resolve);
    sent.on('error', reject);
    sent.end(body);
  });
}

async function call(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: string,
): Promise<{ readonly status: number; readonly headers: IncomingMessage['headers']; readonly text: string }> {
  const response = await open(method, path, headers, body);
  let text = '';
  for await (const chunk of response) text += chunk;
  return { status: response.statusCode!, headers: response.headers, text };
}

const JSON_TYPE = { 'Content-Type': 'application/json' };
const pin = (headers: Record<string, string> = {}, body = '{"version":2}', task = 'digits') =>
  call('POST', `/api/v1/tasks/${task}/pin`, { ...JSON_TYPE, ...headers }, body);

describe('who may change what', () => {
  test('on loopback without tokens everybody, and it is told to all who watch', async () => {
    expect((await pin()).status).toBe(204);
    expect(byTask.get('digits')).toEqual({ version: 2 });
    push(1);
    const frame = JSON.parse(board.ring.between(1, 2)[0]!);
    expect(frame.events).toEqual([
      { atMs: 0, kind: 'override', reason: 'Set by hand.', changes: ['pin digits to version 2'] },
    ]);
    expect(frame.overview.tasks[0].pinnedVersion).toBe(2);
    expect((await pin({}, '{"version":null}')).status).toBe(204);
    expect(byTask.size).toBe(0);
    expect((await call('POST', '/api/v1/tasks/digits/slo', JSON_TYPE, '{"sloMs":80}')).status).toBe(204);
    expect(byTask.get('digits')).toEqual({ sloMs: 80 });
  });

  test.each([
    ['a page of another site, as the browser says', { 'Sec-Fetch-Site': 'cross-site' }],
    ['a page of another port', { Origin: 'http://127.0.0.1:1' }],
    ['a page that hides where it is from', { Origin: 'null' }],
    ['a page whose name was pointed here', { Host: 'evil.example', Origin: 'http://evil.example' }],
  ])('not %s, neither to read nor to change', async (_who, headers) => {
    expect((await pin(headers)).status).toBe(403);
    expect((await call('GET', '/api/v1/overview', headers)).status).toBe(403);
    expect((await call('GET', '/api/v1/events', headers)).status).toBe(403);
    expect(byTask.size).toBe(0);
  });

  test('not a form, which any page can send', async () => {
    const types = ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', ''];
    for (const type of types) expect((await pin({ 'Content-Type': type })).status).toBe(415);
    expect((await call('OPTIONS', '/api/v1/tasks/digits/pin')).status).toBe(405);
    expect((await call('GET', '/api/v1/tasks/digits/pin')).status).toBe(405);
    expect(byTask.size).toBe(0);
  });

  test('with tokens only administrators, while others may read', async () => {
    await close();
    await listen({ administration: ['root'] });
    expect((await pin()).status).toBe(401);
    expect((await pin({ Authorization: 'Bearer wrong' })).status).toBe(401);
    expect(JSON.parse((await call('GET', '/api/v1/overview')).text).overrides).toBe('token');
    expect((await pin({ Authorization: 'Bearer root' })).status).toBe(204);
    // A token is what no page of a foreign name has.
    const foreign = { Host: 'bonsai.example' };
    expect((await call('GET', '/api/v1/overview', foreign)).status).toBe(401);
    expect((await call('GET', '/api/v1/overview', { ...foreign, Authorization: 'Bearer root' })).status).toBe(
      200,
    );
  });

  test('with tokens of inference nobody reads without', async () => {
    await close();
    await listen({ inference: ['reader'], administration: ['root'] });
    for (const path of ['overview', 'history', 'events'])
      expect((await call('GET', `/api/v1/${path}`)).status).toBe(401);
    expect((await call('GET', '/api/v1/overview', { Authorization: 'Bearer reader' })).status).toBe(200);
    expect((await pin({ Authorization: 'Bearer reader' })).status).toBe(401);
  });

  test('changes that make no sense are refused and say why', async () => {
    expect((await pin({}, '{"version":0}')).status).toBe(400);
    expect((await pin({}, '{"version":1,"more":1}')).status).toBe(400);
    expect((await pin({}, '{')).status).toBe(400);
    expect((await pin({}, undefined, 'absent')).text).toMatch(/absent/);
    expect((await pin({}, undefined, '%E0%A4%A')).status).toBe(400);
    expect((await pin({}, ' '.repeat(controlLimits.maxBodyBytes + 1))).status).toBe(413);
    expect((await call('POST', '/api/v1/tasks/digits/slo', JSON_TYPE, '{"sloMs":0}')).status).toBe(400);
  });
});

describe('what was', () => {
  test('comes in pages that join without a gap', async () => {
    push(450);
    const seen: number[] = [];
    let before = '';
    for (;;) {
      const page = JSON.parse((await call('GET', `/api/v1/history?limit=150${before}`)).text);
      expect(page.firstSeq).toBe(51);
      if (page.frames.length === 0) break;
      seen.unshift(...page.frames.map(({ seq }: { readonly seq: number }) => seq));
      before = `&before=${page.frames[0].seq}`;
    }
    expect(seen).toEqual(Array.from({ length: 400 }, (_, i) => 51 + i));
    expect((await call('GET', '/api/v1/history?limit=x')).status).toBe(400);
    expect((await call('GET', '/api/v1/overview?server=elsewhere')).status).toBe(404);
  });
});

/** Reads a stream until it has so many frames. */
async function framesOf(response: IncomingMessage, count: number): Promise<{ text: string; ids: string[] }> {
  let text = '';
  for await (const chunk of response) {
    text += chunk;
    const ids = [...text.matchAll(/^id: (\S+)$/gm)].map(([, id]) => id!);
    if (ids.length >= count) {
      response.destroy();
      return { text, ids };
    }
  }
  throw new Error(`the stream ended after: ${text}`);
}

describe('what comes', () => {
  const boot = async () => JSON.parse((await call('GET', '/api/v1/overview')).text).bootId as string;
  const seqsOf = (ids: readonly string[]) => ids.map((id) => Number(id.split('-')[1]));

  test('goes on where a client was', async () => {
    push(5);
    const response = await open('GET', '/api/v1/events', { 'Last-Event-ID': `${await boot()}-3` });
    push(1);
    const { ids, text } = await framesOf(response, 3);
    expect(seqsOf(ids)).toEqual([4, 5, 6]);
    expect(text).not.toContain('event: reset');
  });

  test.each([
    ['of another run', () => 'ffff-3'],
    ['from the future', (id: string) => `${id}-99999`],
    ['too old to be told at once', (id: string) => `${id}-${500 - MAX_REPLAY_FRAMES - 1}`],
    ['nonsense', () => 'x'],
  ])('begins anew for a client whose last frame was %s', async (_what, idOf) => {
    push(500);
    const response = await open('GET', '/api/v1/events', { 'Last-Event-ID': idOf(await boot()) });
    push(1);
    const { ids, text } = await framesOf(response, 1);
    expect(text).toMatch(/^event: reset\ndata: \{\}\n\n/);
    expect(seqsOf(ids)).toEqual([501]);
  });

  test('lets a client go that does not read, and holds no more than it may', async () => {
    const socket = connect(port, '127.0.0.1');
    socket.pause();
    socket.write('GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n');
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.on('error', () => {});
    await new Promise<void>((resolve) => {
      socket.once('readable', () => resolve());
    });
    const large = { ...look(1), tasks: {}, padding: 'x'.repeat(64 * 1024) };
    // The system's own buffers take some MB first.
    for (let i = 0; i < 400; i++) {
      control.push(board, large);
      if (i % 20 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    socket.resume();
    await closed;
    expect(board.ring.lastSeq).toBe(400);
    expect(400 * 64 * 1024).toBeGreaterThan(10 * MAX_UNREAD_BYTES);
  });

  test('has room for so many who watch', async () => {
    const streams = await Promise.all(
      Array.from({ length: controlLimits.maxStreams }, () => open('GET', '/api/v1/events')),
    );
    expect((await call('GET', '/api/v1/events')).status).toBe(503);
    streams[0]!.destroy();
    await vi.waitFor(async () => expect((await open('GET', '/api/v1/events')).statusCode).toBe(200));
  });
});

describe('the page', () => {
  test('comes with a policy that allows nothing foreign', async () => {
    const { status, headers, text } = await call('GET', '/');
    expect(status).toBe(200);
    expect(headers['content-security-policy']).toMatch(/default-src 'none'.*frame-ancestors 'none'/);
    expect(text).toContain('<div id="app">');
    for (const [, path] of text.matchAll(/(?:src|href)="\.(\/[^"]+)"/g)) {
      const asset = await call('GET', path!, { 'Accept-Encoding': 'gzip' });
      expect(asset.status, path).toBe(200);
      expect(asset.headers['content-encoding']).toBe('gzip');
    }
  });

  test.each([
    '/../package.json',
    '/..%2fpackage.json',
    '/assets/',
    '/assets/../../server.js',
    '/index.html',
    '/api/v2',
  ])('is all that there is: not %s', async (path) => {
    expect((await call('GET', path)).status).toBe(404);
  });
});

describe('a fleet', () => {
  const drain = (headers: Record<string, string> = {}, body = '{"isDrained":true}', server = 'edge-1') =>
    call('POST', `/api/v1/fleet/servers/${server}/drain`, { ...JSON_TYPE, ...headers }, body);

  test('is told as a whole, and every server says that it belongs to one', async () => {
    const { text } = await call('GET', '/api/v1/fleet');
    expect(JSON.parse(text)).toMatchObject({
      schemaVersion: 1,
      policy: 'plan',
      overrides: 'open',
      orchestrator: { isActive: true, pid: 1, host: 'box', term: 2 },
      state: 'the whole state',
    });
    expect(JSON.parse((await call('GET', '/api/v1/overview')).text).isFleet).toBe(true);
    expect((await call('GET', '/api/v1/fleet/nothing')).status).toBe(404);
    expect((await call('GET', '/api/v1/fleet/history/more')).status).toBe(404);
    expect((await call('POST', '/api/v1/fleet')).status).toBe(405);
  });

  test('streams what it is first of all, then frames that are kept and news that are not', async () => {
    const frame = { atMs: 1, spanMs: 1000, tasks: {} };
    control.pushFleet(describeFleet('before anybody looked'), frame);
    const response = await open('GET', '/api/v1/fleet/events');
    let text = '';
    response.on('data', (chunk) => {
      text += chunk;
    });
    await vi.waitFor(() => expect(text).toContain(': hello'));
    expect(text).toMatch(/^event: fleet\ndata: .*"the whole state"/);
    control.pushFleet(describeFleet('some news'), frame);
    await vi.waitFor(() => expect(text).toContain('"some news"'));
    expect(text).toMatch(/id: \w+-2\ndata: \{"seq":2,/);
    expect(text).not.toContain('before anybody looked');
    response.destroy();
    const page = JSON.parse((await call('GET', '/api/v1/fleet/history')).text);
    expect(page.frames.map(({ seq }: { seq: number }) => seq)).toEqual([1, 2]);
  });

  test('has its servers drained by who may change it, and by nobody else', async () => {
    expect((await drain()).status).toBe(204);
    expect((await drain({}, '{"isDrained":false}')).status).toBe(204);
    expect(drained).toEqual(new Map([['edge-1', false]]));
    expect((await drain({}, '{"isDrained":true}', 'edge-9')).status).toBe(400);
    expect((await drain({}, '{"isDrained":1}')).status).toBe(400);
    expect((await drain({ 'Content-Type': 'text/plain' })).status).toBe(415);
    expect((await drain({ 'Sec-Fetch-Site': 'cross-site' })).status).toBe(403);
    expect((await call('GET', '/api/v1/fleet/servers/edge-1/drain')).status).toBe(405);
    await close();
    await listen({ administration: ['secret'] });
    expect((await drain()).status).toBe(401);
    expect((await drain({ Authorization: 'Bearer wrong' })).status).toBe(401);
    expect(drained.size).toBe(0);
    expect((await drain({ Authorization: 'Bearer secret' })).status).toBe(204);
    expect(JSON.parse((await call('GET', '/api/v1/fleet')).text).overrides).toBe('token');
  });

  test('gains and loses servers while it runs; who follows one that left is let go', async () => {
    const other = new Board({
      server: 'there',
      describe: () => ({ startedAtMs: 0, overrides: 'open', tasks: [] }),
    });
    watched.push({ board: other });
    expect((await call('GET', '/api/v1/overview?server=there')).status).toBe(200);
    const response = await open('GET', '/api/v1/events?server=there');
    const ended = new Promise((resolve) => response.resume().on('end', resolve));
    watched.pop();
    other.end();
    await ended;
    expect((await call('GET', '/api/v1/overview?server=there')).status).toBe(404);
  });

  test('has no routes where servers are not run as one', async () => {
    await close();
    board = new Board({ server: 'here', describe: () => ({ startedAtMs: 0, overrides: 'open', tasks: [] }) });
    control = createControlServer({
      watched: [{ board }],
      access: new Access(),
      clock: { nowMs: () => 0, epochMs: () => 0 },
      host: '127.0.0.1',
      onError: (thrown) => {
        throw thrown;
      },
    });
    await new Promise<void>((resolve) => control.server.listen(0, '127.0.0.1', resolve));
    port = (control.server.address() as AddressInfo).port; // A listening TCP server has one.
    for (const path of ['', '/history', '/events'])
      expect((await call('GET', `/api/v1/fleet${path}`)).status).toBe(404);
    expect((await drain()).status).toBe(404);
    expect(JSON.parse((await call('GET', '/api/v1/overview')).text).isFleet).toBeUndefined();
  });
});

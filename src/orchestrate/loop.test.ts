import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Decision, Policy, TaskState } from '../policy/policy.ts';
import { policyByName } from '../policy/registry.ts';
import { makeFrontier } from '../policy/variants.fixture.ts';
import type { TaskManifest } from '../repository/types.ts';
import { type V2ServerOptions, v2Server } from './adapters/v2-server.ts';
import { type DecisionRecord, decisionLog, type LoopOptions, loopDefaults, runLoop } from './loop.ts';
import type { ServerAdapter } from './server-adapter.ts';
import { watchDefaults } from './watch.ts';

/** Throughputs 10, 20, 40, 80 req/s. */
const manifest: TaskManifest = {
  schemaVersion: 1,
  task: 'digits',
  inputs: [],
  outputs: [],
  sloMs: 200,
  variants: makeFrontier([0.95, 10], [0.94, 20], [0.92, 40], [0.88, 80]),
};

/**
 * A small server over real HTTP that speaks the routes the adapter needs, with a fluid model of one CPU inside:
 * each second of the virtual clock it answers what it can. Routes can be made to fail.
 */
class FakeServer {
  readonly loads: { version: number; atMs: number; authorization?: string }[] = [];
  /** Selections of several versions. */
  readonly selections: (readonly number[])[] = [];
  /** Versions in memory where there are several; the page of metrics then names them. */
  resident: readonly number[] = [];
  kind: 'bonsai' | 'triton' = 'bonsai';
  demandRps = 0;
  /** The version that serves; 0: none. */
  version = 1;
  /** What the index says instead of what follows from `version`. */
  index?: unknown[];
  indexLooks = 0;
  /** CPU per request beyond what the profiles say. */
  overhead = 1;
  failLoad?: { status: number; body: string };
  /** A version that cannot be loaded, and with which no selection can. */
  damaged?: number;
  failAll?: { status: number; body: string };
  /** A load hangs until this settles. */
  loadGate?: Promise<void>;
  private answered = 0;
  private cpuSeconds = 0;
  private readonly clock: { nowMs(): number };
  private readonly http: Server;

  constructor(clock: { nowMs(): number }) {
    this.clock = clock;
    this.http = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk) => {
        body += chunk;
      });
      request.on('end', async () => {
        const reply = await this.answer(
          `${request.method} ${request.url}`,
          body,
          request.headers.authorization,
        );
        response.writeHead(reply.status).end(reply.body);
      });
    });
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.http.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.http.address() as AddressInfo).port}`; // A TCP server's address is an object.
  }

  async close(): Promise<void> {
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  /** Lives through some time under its demand. */
  advance(durationS: number): void {
    if (this.version === 0) return;
    const costS = this.overhead / manifest.variants[this.version - 1]!.profiles.test!.throughputRps.median;
    const busyS = Math.min(durationS, this.demandRps * durationS * costS);
    this.cpuSeconds += busyS;
    this.answered += this.demandRps * durationS;
  }

  private async answer(route: string, body: string, authorization?: string) {
    if (this.failAll !== undefined) return this.failAll;
    const triton = this.kind === 'triton';
    switch (route) {
      case 'GET /metrics':
        return {
          status: 200,
          body: triton
            ? `nv_inference_request_success{model="digits",version="${this.version}"} ${this.answered}\n` +
              `nv_inference_request_failure{model="digits",version="${this.version}",reason="OTHER"} 0\n`
            : `process_cpu_seconds_total ${this.cpuSeconds}\nbonsai_cpu_budget_cores 1\nbonsai_slots 2\n` +
              `bonsai_requests_total{model="digits",outcome="ok"} ${0.75 * this.answered}\n` +
              `bonsai_requests_total{model="digits",outcome="refused"} ${0.25 * this.answered}\n` +
              (this.version === 0 ? '' : `bonsai_serving_version{model="digits"} ${this.version}\n`) +
              this.resident
                .map((v) => `bonsai_planned_service_seconds{model="digits",version="${v}"} ${v / 100}\n`)
                .join(''),
        };
      case 'POST /v2/repository/index': {
        this.indexLooks += 1;
        if (this.index !== undefined) return { status: 200, body: JSON.stringify(this.index) };
        const entries = manifest.variants.map(({ version }) => ({
          name: 'digits',
          version: String(version),
          state: version === this.version ? 'READY' : 'UNAVAILABLE',
          reason: '',
        }));
        return { status: 200, body: JSON.stringify([{ name: 'never-loaded' }, ...entries]) };
      }
      case 'POST /v2/repository/models/digits/load': {
        const config = JSON.parse(JSON.parse(body).parameters.config);
        const { versions } = config.version_policy.specific;
        const version = versions.at(-1);
        if (versions.length > 1) this.selections.push(versions);
        this.loads.push({ version, atMs: this.clock.nowMs(), ...(authorization ? { authorization } : {}) });
        await this.loadGate;
        if (this.failLoad !== undefined) return this.failLoad;
        if (versions.includes(this.damaged))
          return { status: 400, body: `{"error":"load failed for model 'digits': bad file"}` };
        this.version = version;
        this.resident = versions.length > 1 ? versions : [];
        return { status: 200, body: '' };
      }
      default:
        return { status: 404, body: '{"error":"Not Found"}' };
    }
  }
}

class VirtualClock {
  private timeMs = 0;
  nowMs = () => this.timeMs;
  epochMs = () => this.timeMs;
  advance(durationMs: number): void {
    this.timeMs += durationMs;
  }
}

let clock: VirtualClock;
let fake: FakeServer;
let url: string;
const opened: ServerAdapter[] = [];

beforeEach(async () => {
  clock = new VirtualClock();
  fake = new FakeServer(clock);
  url = await fake.listen();
});
afterEach(async () => {
  await Promise.all(opened.splice(0).map((server) => server.close()));
  await fake.close();
});

function connect(more: Partial<V2ServerOptions> = {}): ServerAdapter {
  const server = v2Server({ url, metricsUrl: url, clock, name: 'fake', ...more });
  opened.push(server);
  return server;
}

const SWITCH = { kind: 'switch', task: 'digits', toVersion: 2 } as const;

interface Run {
  readonly policy: Policy | string;
  readonly seconds: number;
  readonly server?: ServerAdapter;
  /** Called before each virtual second. */
  readonly script?: (second: number) => void;
  /** The loop does not wait for a switch to be done before the next second. */
  readonly overlap?: boolean;
  readonly options?: Partial<LoopOptions>;
}

/** Runs the loop for some virtual seconds. @returns what was logged and decided */
async function run({ policy, seconds, server = connect(), script, overlap, options }: Run) {
  const stop = new AbortController();
  const lines: { level: string; message: string; atMs: number }[] = [];
  const log = (level: string) => (_fields: object, message: string) => {
    lines.push({ level, message, atMs: clock.nowMs() });
  };
  const decisions = decisionLog();
  const seen: DecisionRecord[] = [];
  let switching: Promise<void> | undefined;
  const watched: ServerAdapter = {
    ...server,
    switchVersion: (...args) => {
      const done = server.switchVersion(...args);
      switching = done.catch(() => {});
      return done;
    },
  };
  let second = 0;
  await runLoop({
    servers: [watched],
    policy: typeof policy === 'string' ? policyByName(policy) : policy,
    objective: { tasks: [manifest] },
    clock,
    signal: stop.signal,
    logger: { debug: log('debug'), info: log('info'), warn: log('warn'), error: log('error') },
    decisions,
    onDecision: (record) => seen.push(record),
    periodMs: 1000,
    sleep: async (durationMs) => {
      await Promise.resolve();
      if (!overlap) await switching;
      if (second >= seconds) return stop.abort();
      second += 1;
      script?.(second);
      fake.advance(durationMs / 1000);
      clock.advance(durationMs);
    },
    ...options,
  });
  return {
    lines,
    decisions: decisions.items(),
    seen,
    of: (level: string) => lines.filter((line) => line.level === level),
  };
}

describe('the loop', () => {
  test('leaves a server alone that has a policy of its own, unless it is that policy', async () => {
    const server = connect();
    const withPolicy: ServerAdapter = {
      ...server,
      observe: async (...args) => ({ ...(await server.observe(...args)), ownPolicy: 'bonsai' }),
    };
    const away = { name: 'away', decide: () => ({ actions: [SWITCH], memory: {}, reason: 'away' }) };
    const { of, decisions } = await run({ policy: away, seconds: 5, server: withPolicy });
    expect([fake.loads, decisions]).toEqual([[], []]);
    expect(of('warn').map(({ message }) => message)).toEqual([
      expect.stringMatching(/has a policy of its own \(bonsai\), so that nothing is changed there/),
    ]);
    await run({ policy: away, seconds: 5, server: withPolicy, options: { isInside: true } });
    expect(fake.loads[0]).toMatchObject({ version: 2 });
  });

  test('follows demand down and up again, and says why', async () => {
    const demandAt = (second: number) => (second <= 60 ? 4 : second <= 140 ? 30 : 4);
    const { decisions, of } = await run({
      policy: 'trivial',
      seconds: 220,
      script: (second) => {
        fake.demandRps = demandAt(second);
      },
    });
    // 4 / 10 = 40 % on version 1. At 30 req/s it is full; the mean of 10 s passes 70 % in the sixth second
    // ((4 × 0.4 + 6 × 1) / 10 = 0.76; a second earlier it is 0.7). 40 % less metric is version 2, which 30 req/s
    // fill as well, so after the hold of 15 s another step follows.
    expect(fake.loads.map((load) => load.version)[0]).toBe(2);
    expect(fake.loads[0]!.atMs).toBe(66_000);
    expect(fake.loads[1]!.atMs).toBeGreaterThan(66_000 + 15_000);
    // In the end 4 req/s can be served by version 1 again: 40 % < 65 %.
    expect(fake.version).toBe(1);
    expect(of('error')).toEqual([]);
    const changes = decisions.filter((decision) => decision.actions.length > 0);
    expect(changes[0]!.reason).toMatch(
      /^Mean CPU 76\.0 % is above 70\.0 %: down to 50\.0 % less inverseThroughput/,
    );
    expect(changes.map((change) => change.atMs)).toEqual(fake.loads.map((load) => load.atMs));
    expect(of('info').map((line) => line.message)).toContain(changes[0]!.reason);
  });

  test('drives a Triton by its own metrics and index, with CPU read elsewhere', async () => {
    fake.kind = 'triton';
    fake.demandRps = 30;
    let used = 0;
    const server = connect({
      cpu: { cpuSeconds: async () => (used += 0.95) },
      cpuBudget: 1,
      token: 'secret',
    });
    await run({ policy: 'trivial', seconds: 12, server });
    // 30 / 10 = 3 on version 1; at most 1.8: version 2 with 1.5. The window of CPU is full after ten seconds.
    expect(fake.loads).toEqual([{ version: 2, atMs: 10_000, authorization: 'Bearer secret' }]);
  });

  test('tells the administrators once per episode that theory and observation part', async () => {
    fake.demandRps = 3;
    fake.overhead = 3; // 3 / 10 = 30 % predicted, 90 % seen; after the step down 15 % and 45 %.
    const { of } = await run({ policy: 'trivial', seconds: 30 });
    const warnings = of('warn').map((line) => line.message);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain('Observed CPU 90.0 % is above 1.2 × the predicted 30.0 %');
  });

  test('keeps one switch of a task at a time and lets the policy see it', async () => {
    let release = () => {};
    fake.loadGate = new Promise((resolve) => {
      release = resolve;
    });
    const loading: (number | undefined)[] = [];
    const always: Policy = {
      name: 'always 3, then 4',
      decide: (state) => {
        loading.push(state.tasks[0]!.loadingVersion);
        const toVersion = loading.length === 1 ? 3 : 4;
        return { actions: [{ kind: 'switch', task: 'digits', toVersion }], reason: 'As the test wants.' };
      },
    };
    await run({ policy: always, seconds: 6, overlap: true, script: (second) => second === 4 && release() });
    expect(loading.slice(0, 4)).toEqual([undefined, 3, 3, 3]);
    expect(fake.loads.slice(0, 2).map((load) => load.version)).toEqual([3, 4]);
  });

  test('goes where a task was pinned to, whatever the policy says, and lets it go again', async () => {
    const pins = new Map<string, { version?: number; sloMs?: number }>();
    const seen: TaskState[] = [];
    const wantsOne: Policy = {
      name: 'always 1',
      decide: ({ tasks }) => {
        seen.push(tasks[0]!);
        return { actions: [{ kind: 'switch', task: 'digits', toVersion: 1 }], reason: 'One is best.' };
      },
    };
    const { decisions } = await run({
      policy: wantsOne,
      seconds: 8,
      script: (second) => {
        if (second === 2) pins.set('digits', { version: 3, sloMs: 50 });
        if (second === 6) pins.delete('digits');
      },
      options: { overrides: () => pins },
    });
    expect(fake.loads.filter((load) => load.atMs >= 2000 && load.atMs < 6000)).toEqual([
      { version: 3, atMs: 2000 },
    ]);
    expect(fake.version).toBe(1);
    // At 2 to 5 s the policy saw the pinned version alone, and the objective that was set by hand.
    expect(seen.map(({ frontier, sloMs }) => [frontier.length, sloMs])).toEqual(
      [4, 4, 1, 1, 1, 1, 4, 4, 4].map((length) => [length, length === 1 ? 50 : 200]),
    );
    expect(decisions[3]!.reason).toBe('One is best. By hand: digits is pinned to version 3.');
  });

  test('leaves alone what is not hosted here, pinned or not, and goes on once it is', async () => {
    let isHosted = false;
    fake.version = 0;
    const { seen } = await run({
      policy: 'static:largest',
      seconds: 8,
      script: (second) => {
        isHosted = second >= 4;
      },
      options: { isHosted: () => isHosted, overrides: () => new Map([['digits', { version: 2 }]]) },
    });
    expect(fake.loads).toEqual([{ version: 2, atMs: 4000 }]);
    expect(seen.length).toBeGreaterThan(0);
    expect(seen.every(({ atMs }) => atMs >= 4000)).toBe(true);
  });

  test('a switch that fails is logged and tried again by a later decision', async () => {
    fake.failLoad = { status: 400, body: '{"error":"load failed for model \'digits\': bad file"}' };
    const { of, decisions } = await run({
      policy: 'static:smallest',
      seconds: 140,
      script: (second) => {
        if (second === 130) fake.failLoad = undefined;
      },
    });
    // Asked for every second, but tried after 5, 10, 20, 40 s, and so on up to a minute; at last it succeeds.
    expect(fake.loads.map((load) => load.atMs)).toEqual([0, 5000, 15_000, 35_000, 75_000, 135_000]);
    expect(of('error').map((line) => line.message)).toEqual(
      Array(5).fill(
        "Loading version 4 of digits on fake failed with 400: load failed for model 'digits': bad file",
      ),
    );
    expect(fake.version).toBe(4);
    expect(decisions.at(-1)!.reason).toContain('digits has its version 4');
  });

  test.each(['trivial', 'static:smallest'])(
    '%s waits for a version that is still loading',
    async (policy) => {
      fake.version = 0;
      fake.index = [{ name: 'digits', version: '1', state: 'LOADING' }];
      const { decisions } = await run({
        policy,
        seconds: 6,
        script: (second) => {
          fake.demandRps = 4;
          if (second === 5) Object.assign(fake, { version: 1, index: undefined });
        },
      });
      // Looks at 0 to 6 s; from 5 s on version 1 serves, and what static:smallest wants can be done.
      expect(fake.loads.filter((load) => load.atMs < 5000)).toEqual([]);
      expect(fake.version).toBe(policy === 'trivial' ? 1 : 4);
      if (policy === 'trivial') expect(decisions[0]!.reason).toBe('Version 1 of digits is loading.');
    },
  );

  test.each(['LOADING', 'UNLOADING'])(
    'a task that is %s without saying which version is left alone',
    async (state) => {
      fake.version = 0;
      fake.index = [{ name: 'digits', state }];
      const { decisions, of } = await run({ policy: 'trivial', seconds: 4 });
      expect(fake.loads).toEqual([]);
      expect(decisions).toEqual([]);
      expect(of('info').map((line) => line.message)).toEqual([
        'digits is not ready on fake yet: it is waited for.',
      ]);
    },
  );

  test.each([
    ['failed', [{ name: 'digits', version: '1', state: 'UNAVAILABLE', reason: 'bad file' }]],
    ['was never loaded', [{ name: 'digits' }]],
    ['is unknown', []],
  ])('a task that %s gets its smallest version at once', async (_, index) => {
    fake.version = 0;
    fake.index = index;
    await run({ policy: 'trivial', seconds: 1 });
    expect(fake.loads).toEqual([{ version: 4, atMs: 0 }]);
  });

  test('the index is asked for only while a task does not serve', async () => {
    fake.version = 0;
    fake.index = [{ name: 'digits', version: '1', state: 'LOADING' }];
    await run({
      policy: 'trivial',
      seconds: 6,
      script: (second) => {
        if (second === 3) fake.version = 1;
      },
    });
    expect(fake.indexLooks).toBe(3); // At 0, 1 and 2 s.
  });

  test('a server that cannot be reached is reported once per episode', async () => {
    const { of, decisions } = await run({
      policy: 'static:largest',
      seconds: 12,
      script: (second) => {
        const down = (second >= 2 && second < 6) || second === 9;
        fake.failAll = down ? { status: 503, body: 'starting' } : undefined;
      },
    });
    expect(of('error').map((line) => line.atMs)).toEqual([2000, 9000]);
    expect(of('error')[0]!.message).toBe(
      'Cannot observe fake, trying on: GET /metrics on fake answered 503: starting',
    );
    expect(of('info').map((line) => line.message)).toEqual(Array(2).fill('fake can be observed again.'));
    expect(decisions).toHaveLength(13 - 5);
  });

  test('a policy that throws, or names a version that is not there, changes nothing', async () => {
    let calls = 0;
    const bad: Policy = {
      name: 'bad',
      decide: () => {
        calls += 1;
        if (calls <= 3) throw new Error('no idea');
        return { actions: [{ kind: 'switch', task: 'digits', toVersion: 99 }], reason: 'Why not.' };
      },
    };
    const { of } = await run({ policy: bad, seconds: 6 });
    expect(calls).toBe(7);
    expect(of('error').map((line) => line.message)).toEqual([
      'Policy bad failed, nothing is changed: no idea',
      'The repository has no version 99 of digits.',
    ]);
    expect(fake.loads).toEqual([]);
  });

  test('a policy that returns no decision changes nothing and ends nothing, and is told of once', async () => {
    let calls = 0;
    const bad: Policy = {
      name: 'bad',
      decide: () => {
        calls += 1;
        return (calls % 2 === 0 ? undefined : { reason: 'No list.' }) as unknown as Decision;
      },
    };
    const { of } = await run({ policy: bad, seconds: 6 });
    expect(calls).toBe(7);
    expect(of('error').map((line) => line.message)).toEqual([
      expect.stringMatching(/^Policy bad failed, nothing is changed: .*its actions are undefined, no list/),
    ]);
    expect(fake.loads).toEqual([]);
  });

  test('a policy that would be asked without pause is refused', async () => {
    const restless: Policy = { name: 'restless', periodMs: 0, decide: () => ({ actions: [], reason: '' }) };
    const options = { servers: [], periodMs: undefined };
    await expect(run({ policy: restless, seconds: 0, options })).rejects.toThrow(
      /restless must have a periodMs/,
    );
  });

  describe('where a policy chooses what is in memory', () => {
    /** What the policy saw at each look, and the moves it made at the second of some. */
    function residing(moves: Readonly<Record<number, Decision['residency']>>) {
      const seen: (Pick<TaskState, 'resident' | 'loading' | 'residencyLimit' | 'planned'> & {
        readonly slots?: number;
      })[] = [];
      const policy: Policy = {
        name: 'residing',
        decide: ({ tasks: [task], slots }) => {
          const { resident, loading, residencyLimit, planned } = task!;
          seen.push({ resident, loading, residencyLimit, planned, slots });
          return { actions: [], residency: moves[seen.length], reason: 'As the test wants.' };
        },
      };
      return { policy, seen };
    }
    const load = (version: number) => ({ kind: 'load', task: 'digits', version }) as const;
    const unload = (version: number) => ({ kind: 'unload', task: 'digits', version }) as const;

    test('a server that keeps several gets one change for a load and an unload', async () => {
      fake.version = 4;
      const { policy, seen } = residing({ 1: [load(2)], 3: [load(3), unload(2)] });
      const { of } = await run({ policy, seconds: 5, options: { residency: 3 } });
      expect(fake.selections).toEqual([
        [2, 4],
        [3, 4],
      ]);
      expect(seen[0]).toMatchObject({ resident: [4], loading: [], residencyLimit: 3 });
      expect(seen.at(-1)).toMatchObject({
        slots: 2,
        resident: [3, 4],
        planned: [
          { version: 3, serviceMs: 30 },
          { version: 4, serviceMs: 40 },
        ],
      });
      expect(of('info').map(({ message }) => message)).toContain(
        'fake has in memory versions 3, 4 of digits.',
      );
      expect(of('error')).toEqual([]);
    });

    test('a version that cannot be loaded does not keep out the others', async () => {
      fake.version = 4;
      fake.damaged = 2;
      const { policy, seen } = residing({ 1: [load(1), load(2), load(3)], 5: [load(2)] });
      const { of } = await run({ policy, seconds: 5, options: { residency: 4 } });
      expect(seen.at(-1)).toMatchObject({ resident: [1, 3, 4], loading: [] });
      // Of the damaged one alone it is told, and not tried again at once.
      expect(of('error').map(({ message }) => message)).toEqual([
        "Loading version 1, 2, 3, 4 of digits on fake failed with 400: load failed for model 'digits': bad file",
      ]);
      expect(of('info').map(({ message }) => message)).toContain(
        'fake has in memory versions 1, 3, 4 of digits.',
      );
    });

    test('a version on its way is seen as such, and the task keeps that change', async () => {
      fake.version = 4;
      let release = () => {};
      fake.loadGate = new Promise((resolve) => {
        release = resolve;
      });
      const { policy, seen } = residing({ 1: [load(2)], 2: [load(1)] });
      await run({
        policy,
        seconds: 6,
        overlap: true,
        options: { residency: 3 },
        script: (second) => second === 4 && release(),
      });
      expect(seen.slice(0, 3).map(({ loading }) => loading)).toEqual([[], [2], [2]]);
      expect(fake.selections).toEqual([[2, 4]]);
    });

    test('where one version is held, a load is a switch', async () => {
      fake.version = 4;
      const { policy, seen } = residing({ 2: [load(3), unload(4)] });
      await run({ policy, seconds: 4 });
      expect(fake.loads.map(({ version }) => version)).toEqual([3]);
      expect(fake.selections).toEqual([]);
      expect(seen[0]).toMatchObject({ resident: [4], residencyLimit: 1 });
      expect(seen.at(-1)).toMatchObject({ resident: [3] });
    });

    test('versions that the repository lacks are refused by name', async () => {
      const { policy } = residing({ 1: [load(9)] });
      const { of } = await run({ policy, seconds: 2, options: { residency: 3 } });
      expect(of('error').map(({ message }) => message)).toEqual([
        'The repository has no version 9 of digits.',
      ]);
      expect(fake.loads).toEqual([]);
    });

    test('bonsai moves a task along its family on a server that holds one version', async () => {
      const { of } = await run({
        policy: 'bonsai',
        seconds: 90,
        script: (second) => {
          fake.demandRps = second < 40 ? 1 : 50;
        },
      });
      // 50 req/s are more than versions 1 to 3 (10, 20, 40 req/s) can do; at 1 req/s the most accurate is in time.
      expect(fake.loads.at(-1)!.version).toBe(4);
      expect(fake.version).toBe(4);
      expect(of('error')).toEqual([]);
    });
  });

  test('a floor and an objective of one task count more than its manifest', async () => {
    const states: TaskState[] = [];
    const policy: Policy = {
      name: 'looking',
      decide: ({ tasks: [task] }) => {
        states.push(task!);
        return { actions: [], reason: 'Looks.' };
      },
    };
    const byTask = { digits: { weight: 2, sloMs: 50, minAccuracy: 0.96 } };
    await run({ policy, seconds: 1, options: { objective: { tasks: [manifest], byTask } } });
    expect(states[0]).toMatchObject({ weight: 2, sloMs: 50 });
    // Of 0.95, 0.94, 0.92 and 0.88, over 0.95: 1, 0.989, 0.968 and 0.926.
    expect(states[0]!.frontier.map(({ version }) => version)).toEqual([1, 2, 3]);
  });

  test('hands the memory back and keeps bounded histories', async () => {
    let last: Parameters<Policy['decide']>[0] | undefined;
    const counting: Policy = {
      name: 'counting',
      decide: (state) => {
        last = state;
        return { actions: [], reason: 'Counting.', memory: ((state.memory as number | undefined) ?? 0) + 1 };
      },
    };
    fake.demandRps = 8;
    const seconds = 1000;
    const { decisions, seen } = await run({ policy: counting, seconds });
    expect(last!.memory).toBe(seconds);
    expect(last!.cpu).toHaveLength(watchDefaults.historyCapacity);
    expect(last!.tasks[0]).toMatchObject({ sloMs: 200, weight: 1, servingVersion: 1 });
    expect(last!.tasks[0]!.demand).toHaveLength(watchDefaults.historyCapacity);
    expect(last!.tasks[0]!.demand.at(-1)!.demandRps).toBeCloseTo(8, 9);
    expect(last!.cpu.at(-1)!.utilization).toBeCloseTo(0.8, 9);
    expect(decisions).toHaveLength(loopDefaults.decisionCapacity);
    expect(seen).toHaveLength(seconds + 1);
  });
});

describe('the adapter', () => {
  const never = new AbortController().signal;

  test.each([
    [404, '{"error":"no such thing"}', 'model_not_found'],
    [400, '{"error":"failed to load \'digits\', failed to poll from model repository"}', 'model_not_found'],
    [404, '{"error":"\'digits\' version 9 is not found"}', 'version_not_found'],
    [503, '{"error":"explicit model load / unload is not allowed"}', 'not_ready'],
    [400, '{"error":"load failed"}', 'load_failed'],
    [500, '<html>', 'load_failed'],
    [401, '', 'invalid_config'],
  ])('a load answered by %s %s is %s', async (status, body, code) => {
    fake.failLoad = { status, body };
    await expect(connect().switchVersion('digits', 9, never)).rejects.toMatchObject({ code });
  });

  test('no server, no answer in time, and a caller that gave up are told apart', async () => {
    const gone = connect({ url: 'http://127.0.0.1:1', metricsUrl: 'http://127.0.0.1:1' });
    await expect(gone.observe(never)).rejects.toMatchObject({ code: 'server_unreachable' });
    fake.loadGate = new Promise(() => {});
    const slow = connect({ loadTimeoutMs: 20 }).switchVersion('digits', 2, never);
    await expect(slow).rejects.toThrow('failed: no answer within 20 ms');
    const stopped = connect().switchVersion('digits', 2, AbortSignal.abort());
    await expect(stopped).rejects.toMatchObject({ code: 'aborted' });
  });

  test('a page that is not metrics is refused by name of its line', async () => {
    fake.failAll = { status: 200, body: '<!doctype html>' };
    await expect(connect().observe(never)).rejects.toMatchObject({ code: 'invalid_request' });
  });
});

import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { BonsaiError } from '../../base/errors.ts';
import { policyByName } from '../../policy/registry.ts';
import { makeFrontier } from '../../policy/variants.fixture.ts';
import type { TaskManifest } from '../../repository/types.ts';
import type { Balancer, Routing } from '../balancer.ts';
import type { Scrape } from '../observe.ts';
import type { ServerAdapter, TaskTensors } from '../server-adapter.ts';
import { runFleet } from './fleet-loop.ts';
import type { FleetMembers, FleetServer, FleetTask } from './members.ts';
import type { FleetDecision, FleetRecord } from './record.ts';
import { type FleetOptions, fleetDefaults } from './state.ts';

/** CPU seconds of a request: 0.1, 0.05, 0.025, 0.0125; latencies as long, of an objective of 400 ms. */
const FAMILY = makeFrontier([0.95, 10], [0.94, 20], [0.92, 40], [0.88, 80]);

function manifest(task: string): TaskManifest {
  const inputs = [{ name: 'image', dtype: 'float32', shape: [-1, 1, 28, 28] }] as const;
  return { schemaVersion: 1, task, inputs, outputs: [], sloMs: 400, variants: FAMILY };
}

function tensorsOf(...shape: readonly (number | string)[]): TaskTensors {
  return { inputs: [{ name: 'image', datatype: 'FP32', shape }], outputs: [] };
}

/** A second of virtual time passes with each sleep of the loop; loads take some of them. */
class World {
  nowMs = 0;
  readonly nodes = new Map<string, Node>();
  readonly log: string[] = [];
  readonly decisions: FleetDecision[] = [];
  readonly records: FleetRecord[] = [];
  readonly demandRps = new Map<string, number>();
  routing?: Routing;
  balancerError?: BonsaiError;
  private readonly timers: { readonly atMs: number; readonly done: () => void }[] = [];

  readonly clock = { nowMs: () => this.nowMs, epochMs: () => 1e12 + this.nowMs };

  readonly balancer: Balancer & { readonly kind: string } = {
    kind: 'balancer',
    staleMs: 0,
    isRunning: async () => true,
    apply: async (routing) => {
      if (this.balancerError !== undefined) throw this.balancerError;
      this.routing = routing;
      for (const { task, servers } of routing.tasks)
        this.log.push(`route ${task} ${servers.map(({ name, weight }) => `${name}:${weight}`).join(' ')}`);
    },
  };

  /** Resolves when so much time has passed. */
  passing(durationMs: number): Promise<void> {
    return new Promise((done) => this.timers.push({ atMs: this.nowMs + durationMs, done }));
  }

  /** Lets time pass, requests arrive by the routing, and what waits go on. */
  async advance(durationMs: number): Promise<void> {
    const endMs = this.nowMs + durationMs;
    for (const { task, servers } of this.routing?.tasks ?? []) {
      const total = servers.reduce((sum, { weight }) => sum + weight, 0);
      for (const { name, weight } of servers) {
        const node = this.nodes.get(name)!;
        const count = ((this.demandRps.get(task) ?? 0) * durationMs * weight) / total / 1000;
        node.requests.set(task, (node.requests.get(task) ?? 0) + count);
      }
    }
    this.nowMs = endMs;
    for (const timer of this.timers.filter(({ atMs }) => atMs <= endMs)) timer.done();
    for (let i = 0; i < 20; i++) await turn();
  }

  /** @param until ends the loop when true */
  async run(members: FleetMembers, until: () => boolean, options: Partial<FleetOptions> = {}): Promise<void> {
    const controller = new AbortController();
    let looks = 0;
    await runFleet({
      members,
      balancer: this.balancer,
      clock: this.clock,
      signal: controller.signal,
      onDecision: (decision) => {
        this.decisions.push(decision);
        if (['begin', 'done', 'failed'].includes(decision.kind))
          this.log.push(`${decision.kind} ${decision.text}`);
      },
      save: async (record) => {
        this.records.push(structuredClone(record));
      },
      sleep: async (durationMs) => {
        await this.advance(durationMs);
        if (until() || ++looks > 300) controller.abort();
      },
      ...options,
    });
    expect(looks).toBeLessThan(300);
  }

  get last(): FleetRecord {
    return this.records.at(-1)!;
  }

  /** By server: task@version, of what serves. */
  serving(): Record<string, string> {
    return Object.fromEntries(
      [...this.nodes].map(([name, { present }]) => [
        name,
        [...present]
          .map(([t, v]) => `${t}@${v}`)
          .sort()
          .join(' '),
      ]),
    );
  }
}

/** A server in memory that holds what it is told. */
class Node implements ServerAdapter {
  readonly name: string;
  readonly present: Map<string, number>;
  readonly requests = new Map<string, number>();
  isDead = false;
  ownPolicy: string | undefined;
  /** The version that its own policy answers by. */
  answeredBy: number | undefined;
  /** Versions that cannot be loaded. */
  readonly broken = new Set<number>();
  /** Tasks that its repository does not have. */
  readonly missing = new Set<string>();
  /** Of what it serves under the names of tasks. */
  readonly metadata = new Map<string, TaskTensors>();
  changing = 0;
  private readonly world: World;

  constructor(world: World, name: string, present: Readonly<Record<string, number>>) {
    this.world = world;
    this.name = name;
    this.present = new Map(Object.entries(present));
    world.nodes.set(name, this);
  }

  async observe(): Promise<Scrape> {
    if (this.isDead) throw new BonsaiError('server_unreachable', `${this.name} refuses connections.`);
    return {
      atMs: this.world.nowMs,
      requests: new Map([...this.requests].map(([task, count]) => [task, new Map([['all', count]])])),
      countedAt: 'arrival',
      serving: new Map(this.present),
      loading: new Map(),
      queued: new Map(),
      cpuSeconds: 0,
      cpuBudget: 1,
      ownPolicy: this.ownPolicy,
      answers: new Map(
        this.answeredBy === undefined
          ? []
          : [...this.requests].map(([task, count]) => [
              task,
              new Map([[this.answeredBy!, { count, accuracy: 0.9 }]]),
            ]),
      ),
    };
  }

  async switchVersion(task: string, version: number): Promise<void> {
    expect(++this.changing).toBe(1);
    await this.world.passing(2_000);
    this.changing--;
    if (this.missing.has(task)) throw new BonsaiError('model_not_found', `No ${task} on ${this.name}.`);
    if (this.broken.has(version)) throw new BonsaiError('load_failed', `Version ${version} is damaged.`);
    this.present.set(task, version);
  }

  async unload(task: string): Promise<void> {
    this.present.delete(task);
  }

  async tensors(task: string): Promise<TaskTensors | undefined> {
    return this.metadata.get(task);
  }

  async close(): Promise<void> {}
}

function member(node: Node, figures: Partial<FleetServer> = {}): FleetServer {
  return {
    name: node.name,
    identity: node.name,
    connect: () => node,
    http: `${node.name}:8000`,
    cpus: 1,
    weight: 1,
    canLoad: true,
    ...figures,
  };
}

function fleet(
  nodes: readonly Node[],
  tasks: readonly string[],
  figures: Partial<FleetServer> = {},
): FleetMembers {
  return {
    servers: nodes.map((node) => member(node, figures)),
    tasks: tasks.map((task) => ({ manifest: manifest(task), objective: {}, replicas: 2 })),
  };
}

describe('the loop over a fleet', () => {
  test('switches servers of a task one after another, each with its weight lowered meanwhile', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 4 }));
    world.demandRps.set('a', 8); // 4 req/s each: 0.4 cores of 0.7 by version 1.
    await world.run(
      fleet(nodes, ['a']),
      () => world.log.at(-1) === 'route a x:100 y:100' && world.log.length > 4,
    );
    expect(world.log).toEqual([
      'route a x:100 y:100',
      expect.stringMatching(/^begin switch a 4 -> 1 on x: x is to carry \d\.\d req\/s \(50 %\)/),
      'route a x:25 y:100',
      'done switch a 4 -> 1 on x took 2.0 s.',
      expect.stringMatching(/^begin switch a 4 -> 1 on y: /),
      'route a x:100 y:25',
      'done switch a 4 -> 1 on y took 2.0 s.',
      'route a x:100 y:100',
    ]);
  });

  test('steps down where demand rises, and sends nothing to a server that failed', async () => {
    const world = new World();
    const nodes = ['x', 'y', 'z'].map((name) => new Node(world, name, name === 'z' ? {} : { a: 1 }));
    world.demandRps.set('a', 8);
    const members = fleet(nodes, ['a']);
    await world.run(members, () => world.nowMs >= 8_000);
    expect(world.serving()).toEqual({ x: 'a@1', y: 'a@1', z: '' });
    // Its replica moves; the two that are left have 10 req/s each, which version 1 cannot carry.
    nodes[1]!.isDead = true;
    world.demandRps.set('a', 20);
    await world.run(members, () => world.serving().x === 'a@2' && world.serving().z === 'a@2', {
      before: world.last,
    });
    expect(world.routing!.tasks[0]!.servers.map(({ name }) => name)).not.toContain('y');
    expect(world.last.servers.find(({ name }) => name === 'y')).toMatchObject({
      health: 'down',
      trouble: 'y refuses connections.',
    });
  });

  test('takes a quickest version where nobody serves, before demand is known', async () => {
    const world = new World();
    const nodes = [new Node(world, 'x', {})];
    await world.run(fleet(nodes, ['a']), () => world.serving().x !== '');
    expect(world.serving()).toEqual({ x: 'a@4' });
  });

  test('adopts servers that join, and does not fail on a description that is wrong', async () => {
    const world = new World();
    const x = new Node(world, 'x', { a: 1 });
    const y = new Node(world, 'y', {});
    world.demandRps.set('a', 4);
    let looks = 0;
    await world.run(fleet([x], ['a']), () => world.serving().y === 'a@1', {
      reread: async () => {
        looks++;
        if (looks === 3) throw new BonsaiError('invalid_config', 'fleet.yaml:1: wrong.');
        return looks === 6 ? fleet([x, y], ['a']) : undefined;
      },
    });
    expect(world.decisions.some(({ text }) => text === 'The fleet was described anew: y joined.')).toBe(true);
  });

  test('unloads a task that is taken out of the description, and loads it again once it is back', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 1, b: 1, other: 1 }));
    const [both, one] = [fleet(nodes, ['a', 'b']), fleet(nodes, ['a'])];
    let next: FleetMembers | undefined;
    const reread = async () => {
      const now = next;
      next = undefined;
      return now;
    };
    await world.run(
      both,
      () => {
        if (world.nowMs === 6_000) next = one;
        if (world.nowMs === 20_000) {
          expect(world.serving()).toEqual({ x: 'a@1 other@1', y: 'a@1 other@1' });
          next = both;
        }
        return world.nowMs >= 20_000 && world.serving().x === 'a@1 b@1 other@1' && world.nowMs >= 30_000;
      },
      { reread },
    );
    expect(world.log.find((line) => line.startsWith('begin unload b'))).toBe(
      "begin unload b 1 from x: b is not in the fleet's description any more.",
    );
  });

  test('goes on from the record of the one before: nothing is learned or loaded anew', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 2 }));
    world.demandRps.set('a', 20);
    const members = fleet(nodes, ['a']);
    await world.run(members, () => world.nowMs >= 20_000);
    const before = world.last;
    expect(before.tasks[0]!.demandRps).toBeGreaterThan(18);
    world.log.length = 0;
    world.nowMs += 3_000;
    await world.run(members, () => world.nowMs >= 26_000, { before });
    expect(world.log.filter((line) => !line.startsWith('route'))).toEqual([]);
    expect(world.last.tasks[0]!.demandRps).toBeGreaterThan(15);
    expect(world.last.decisions.slice(0, before.decisions.length)).toEqual(before.decisions);
  });

  test('leaves a version that cannot be loaded alone for a while, and takes the next', async () => {
    const world = new World();
    const x = new Node(world, 'x', { a: 4 });
    x.broken.add(1);
    world.demandRps.set('a', 4);
    await world.run(fleet([x], ['a']), () => world.serving().x === 'a@2');
    expect(world.log.filter((line) => line.startsWith('failed'))).toEqual([
      'failed switch a 4 -> 1 on x failed: Version 1 is damaged.',
    ]);
  });

  test('tries a task that a server does not have once and then ever more rarely, and plans it elsewhere', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 4 }));
    const lacking = new Node(world, 'z', { b: 1 });
    lacking.missing.add('a');
    world.demandRps.set('a', 8);
    const members = fleet([...nodes, lacking], ['a', 'b']);
    const tasks = members.tasks.map((task) => ({ ...task, replicas: 3 }));
    await world.run({ ...members, tasks }, () => world.nowMs > 250_000);
    const failures = world.decisions.filter(({ kind, server }) => kind === 'failed' && server === 'z');
    // After a minute, and after two.
    expect(failures.length).toBe(3);
    expect(world.last.servers.find(({ name }) => name === 'z')!.trouble).toMatch(
      /^it does not have a, which is tried again in \d+ s$/,
    );
    expect(world.serving()).toMatchObject({ x: expect.stringContaining('a@'), z: 'b@1' });
  });

  test('sends nothing to a server that serves another network under the name of a task, until it does not', async () => {
    const world = new World();
    const [same, other] = ['x', 'y'].map((name) => new Node(world, name, { a: 4 }));
    // Sizes that one side does not know differ from none.
    same!.metadata.set('a', tensorsOf('-1', '1', '-1', '28'));
    other!.metadata.set('a', tensorsOf(-1, 3, 32, 32));
    world.demandRps.set('a', 8);
    await world.run(fleet([same!, other!], ['a']), () => world.nowMs > 30_000);
    expect(world.log.filter((line) => /^route a .*y:/.test(line))).toEqual([]);
    expect(world.log.filter((line) => /on y/.test(line))).toEqual([]);
    expect(world.last.servers[1]!.trouble).toBe(
      "it serves another network as a: its input 'image' has shape [-1,3,32,32], and the repository's [-1,1,28,28]",
    );
    other!.metadata.set('a', tensorsOf(-1, 1, 28, 28));
    other!.present.set('a', 3);
    await world.run(fleet([same!, other!], ['a']), () => world.routing!.tasks[0]!.servers.length === 2);
    expect(world.last.servers[1]!.trouble).toBeUndefined();
  });

  test('tells that somebody else switches its servers, once in a while', async () => {
    const world = new World();
    const node = new Node(world, 'x', { a: 1 });
    world.demandRps.set('a', 4);
    await world.run(fleet([node], ['a']), () => {
      if (world.nowMs > 10_000 && node.changing === 0) node.present.set('a', 4);
      return world.nowMs > 60_000;
    });
    const told = world.decisions.filter(({ text }) => /was not switched from here/.test(text));
    expect(told.map(({ text }) => text)).toEqual([expect.stringContaining('a from 1 to 4 on x')]);
  });

  test('tells that the balancer fails, unloads nothing that it still reaches, and goes on when it works', async () => {
    const world = new World();
    const [x, y, z] = ['x', 'y', 'z'].map((name) => new Node(world, name, { a: 1 })) as [Node, Node, Node];
    world.demandRps.set('a', 2);
    const members = fleet([x, y, z], ['a']);
    const onlyTwo: FleetMembers = { ...members, tasks: [{ ...members.tasks[0]!, servers: ['x', 'y'] }] };
    world.balancerError = new BonsaiError('invalid_config', 'NGINX refuses the configuration.');
    await world.run(onlyTwo, () => world.nowMs >= 10_000);
    expect(world.decisions.filter(({ kind }) => kind === 'balancer').map(({ text }) => text)).toEqual([
      'NGINX refuses the configuration.',
    ]);
    expect(world.last.balancer.error).toBe('NGINX refuses the configuration.');
    expect(world.serving().z).toBe('a@1');
    world.balancerError = undefined;
    await world.run(onlyTwo, () => world.serving().z === '');
    expect(world.log.indexOf('route a x:100 y:100')).toBeLessThan(
      world.log.findIndex((line) => line.startsWith('done unload a 1 from z')),
    );
  });

  test('lets a policy choose the versions, in the places of the plan', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 1 }));
    await world.run(
      fleet(nodes, ['a']),
      () => Object.values(world.serving()).every((text) => text === 'a@3'),
      {
        policy: policyByName('static:a=3'),
      },
    );
    expect(world.last.servers.map(({ tasks }) => tasks[0]!.plannedVersion)).toEqual([3, 3]);
  });

  test('empties a server that is drained by hand once others serve its tasks, and takes it back', async () => {
    const world = new World();
    const nodes = ['x', 'y', 'z'].map((name) => new Node(world, name, name === 'z' ? {} : { a: 1 }));
    world.demandRps.set('a', 4);
    let drained = ['x'];
    const overrides = async () => ({ tasks: {}, drained });
    const members = fleet(nodes, ['a']);
    await world.run(members, () => world.serving().x === '', { overrides });
    expect(world.serving().z).toMatch(/^a@/);
    // No request from the first moment on, as somebody else could answer.
    expect(world.log.filter((line) => /^route a .*x:/.test(line))).toEqual([]);
    expect(world.log.some((line) => line.includes('x is drained by hand; 2 other servers serve a'))).toBe(
      true,
    );
    expect(world.decisions.filter(({ kind }) => kind === 'override').map(({ text }) => text)).toEqual([
      'By hand: x is drained: it gets no requests, and its tasks move to other servers.',
    ]);
    expect(world.last.servers[0]).toMatchObject({ name: 'x', isDrained: true });
    expect(world.last.plan.reason).toContain('on 2 of 3 servers (1 drained)');
    // The next orchestrator knows it without being told again, and y cannot be spared while x is drained.
    const { length } = world.decisions;
    await world.run(members, () => world.nowMs >= 60_000, { overrides, before: world.last });
    expect(world.decisions.slice(length).filter(({ kind }) => kind === 'override')).toEqual([]);
    expect(world.serving().x).toBe('');
    drained = [];
    nodes[1]!.isDead = true;
    await world.run(members, () => world.serving().x !== '', { overrides, before: world.last });
    expect(world.decisions.some(({ text }) => text === 'By hand: x is taken back.')).toBe(true);
  });

  test('keeps a task on a drained server while nobody else can serve it, and says so', async () => {
    const world = new World();
    const x = new Node(world, 'x', { a: 1 });
    await world.run(fleet([x], ['a']), () => world.nowMs >= 10_000, {
      overrides: async () => ({ tasks: {}, drained: ['x'] }),
    });
    expect(world.serving().x).toBe('a@1');
    expect(world.routing!.tasks[0]!.servers.map(({ name }) => name)).toEqual(['x']);
    expect(world.last.servers[0]!.trouble).toBe('drained, but a stays until another server serves it');
    expect(world.last.plan.unplaced).toEqual([
      { task: 'a', reason: 'all servers that a may run on are drained or down' },
    ]);
  });

  test('serves the version that a task is pinned to everywhere, and by the objective set by hand', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 1 }));
    world.demandRps.set('a', 4);
    const members = fleet(nodes, ['a']);
    let byHand: { version?: number; sloMs?: number } = { version: 3 };
    const overrides = async () => ({ tasks: { a: byHand }, drained: [] });
    const all = (text: string) => () => Object.values(world.serving()).every((each) => each === text);
    await world.run(members, all('a@3'), { overrides });
    expect(world.last.tasks[0]).toMatchObject({ plannedAccuracy: 0.92, servedAccuracy: 0.92, hosts: 2 });
    // Versions take 100, 50, 25 and 12.5 ms; those that take more than a third of the objective are not used.
    byHand = { sloMs: 80 };
    await world.run(members, () => world.nowMs >= 90_000, { overrides, before: world.last });
    expect(all('a@3')()).toBe(true);
    expect(world.last.tasks[0]!.sloMs).toBe(80);
    byHand = {};
    await world.run(members, all('a@1'), { overrides, before: world.last });
    expect(world.decisions.filter(({ kind }) => kind === 'override').map(({ text }) => text)).toEqual([
      'By hand: a is pinned to version 3.',
      'By hand: a is no longer pinned.',
      'By hand: The objective of a is 80 ms.',
      'By hand: The objective of a is as configured.',
    ]);
  });

  test('keeps what serves where a pinned version cannot be loaded', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 1 }));
    for (const node of nodes) node.broken.add(3);
    await world.run(fleet(nodes, ['a']), () => world.nowMs >= 40_000, {
      overrides: async () => ({ tasks: { a: { version: 3 } }, drained: [] }),
    });
    expect(world.serving()).toEqual({ x: 'a@1', y: 'a@1' });
    expect(world.last.servers[0]!.trouble).toMatch(
      /^version 3 of a could not be loaded, which is tried again in \d+ s$/,
    );
  });

  test('leaves the versions to a server that has a policy of its own, and shows what answers there', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 4 })) as [Node, Node];
    nodes[0].ownPolicy = 'bonsai';
    nodes[0].answeredBy = 2;
    world.demandRps.set('a', 5);
    await world.run(fleet(nodes, ['a']), () => world.serving().y === 'a@1' && world.nowMs >= 20_000);
    expect(world.serving().x).toBe('a@4');
    expect(world.routing!.tasks[0]!.servers.map(({ name }) => name)).toEqual(['x', 'y']);
    const about = world.decisions.filter(({ server, kind }) => server === 'x' && kind === 'server');
    expect(about.at(-1)!.text).toBe(
      'x has a policy of its own (bonsai): the fleet says which tasks it serves, that policy by which versions.',
    );
    // What the plan expects of that policy is no news.
    expect(world.decisions.filter(({ kind }) => kind === 'plan').length).toBeLessThan(5);
    const [x] = world.last.servers;
    expect(x).toMatchObject({ ownPolicy: 'bonsai', tasks: [{ version: 2, plannedVersion: 2 }] });
    expect(x!.trouble).toBeUndefined();
  });

  test('moves tasks to and from a server that has a policy of its own', async () => {
    const world = new World();
    const [x, y] = [new Node(world, 'x', { a: 4 }), new Node(world, 'y', {})];
    y.ownPolicy = 'bonsai';
    const plain = fleet([x, y], ['a', 'b']);
    const [a, b] = plain.tasks as [FleetTask, FleetTask];
    const members = { ...plain, tasks: [a, { ...b, objective: { minAccuracy: 0.8 } }] };
    await world.run(members, () => world.serving().y === 'a@1 b@1' && world.nowMs >= 20_000);
    // It answers by faster versions while it loads, so that it keeps its weight.
    expect(world.log.filter((line) => /^route .*y:25/.test(line))).toEqual([]);
    const drained = { tasks: { a: { version: 3 } }, drained: ['y'] };
    await world.run(members, () => world.nowMs >= 40_000, {
      overrides: async () => ({ ...drained, drained: [] }),
      before: world.last,
    });
    expect(world.serving().y).toBe('a@1 b@1');
    expect(world.last.servers[1]!.trouble).toBe(
      "its own policy (bonsai) chooses versions: a is not pinned here; its own policy (bonsai) chooses versions: say min-accuracy of b in the server's bonsai.yaml, too",
    );
    await world.run(members, () => world.serving().y === '', {
      overrides: async () => drained,
      before: world.last,
    });
    expect(world.routing!.tasks[0]!.servers.map(({ name }) => name)).toEqual(['x']);
  });

  test('tells since when a server is up or down, also over a new start of the orchestrator', async () => {
    const world = new World();
    const x = new Node(world, 'x', { a: 1 });
    const members = fleet([x], ['a']);
    await world.run(members, () => {
      x.isDead = world.nowMs >= 3_000;
      return world.nowMs >= 6_000;
    });
    expect(world.last.servers[0]).toMatchObject({ health: 'down', healthSinceMs: 1e12 + 3_000 });
    await world.run(members, () => world.nowMs >= 12_000, { before: world.last });
    expect(world.last.servers[0]).toMatchObject({ health: 'down', healthSinceMs: 1e12 + 3_000 });
  });

  test('keeps its last servers in the balancer where none can be seen', async () => {
    const world = new World();
    const nodes = ['x', 'y'].map((name) => new Node(world, name, { a: 1 }));
    await world.run(fleet(nodes, ['a']), () => {
      if (world.nowMs >= 5_000) for (const node of nodes) node.isDead = true;
      return world.nowMs >= 9_000;
    });
    expect(world.routing!.tasks[0]!.servers.map(({ name }) => name)).toEqual(['x', 'y']);
    expect(world.last.plan.unplaced).toEqual([{ task: 'a', reason: 'no server that a may run on is up' }]);
  });

  test('keeps a bounded number of decisions', async () => {
    const world = new World();
    const x = new Node(world, 'x', { a: 1 });
    await world.run(fleet([x], ['a']), () => {
      x.isDead = !x.isDead;
      return world.nowMs >= 250_000;
    });
    expect(world.last.decisions).toHaveLength(fleetDefaults.decisionCapacity);
  });
});

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { systemClock } from '../base/clock.ts';
import type { FleetMembers, FleetServer } from '../orchestrate/fleet/members.ts';
import { readFleetOverrides } from '../orchestrate/fleet/overrides-file.ts';
import { type FleetRecord, writeFleetRecord } from '../orchestrate/fleet/record.ts';
import { silentLogger } from '../orchestrate/logger.ts';
import { makeFrontier } from '../policy/variants.fixture.ts';
import type { FleetOverview, Overview } from '../serve/control/messages.ts';
import { type FleetControl, fleetControl } from './fleet-control.ts';

const manifest = {
  schemaVersion: 1,
  task: 'digits',
  inputs: [],
  outputs: [],
  variants: makeFrontier([0.95, 10], [0.9, 40]),
};

function members(...names: readonly string[]): FleetMembers {
  const server = (name: string): FleetServer => ({
    name,
    identity: name,
    connect: () => {
      throw new Error('Nobody connects here.');
    },
    http: `${name}:8000`,
    weight: 1,
    canLoad: true,
  });
  return { servers: names.map(server), tasks: [{ manifest, objective: {}, replicas: 2 }] };
}

const record: FleetRecord = {
  schemaVersion: 1,
  term: 1,
  savedMs: 1,
  plan: { reason: 'As it was.', utilization: 0, accuracy: 1, unplaced: [], unservedRps: {} },
  balancer: { kind: 'none' },
  overrides: { tasks: { digits: { version: 2, sloMs: 80 } }, drained: [] },
  servers: [],
  tasks: [],
  decisions: [],
};

let folder: string;
let control: FleetControl;
const paths = () => ({
  statePath: join(folder, 'state.json'),
  leasePath: join(folder, 'state.json.lock'),
  overridesPath: join(folder, 'state.json.overrides'),
});

async function start(): Promise<void> {
  control = await fleetControl({
    host: '127.0.0.1',
    port: 0,
    members: members('edge-1', 'edge-2'),
    policyName: 'plan',
    ...paths(),
    tokens: [],
    clock: systemClock,
    logger: silentLogger,
  });
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-fleet-control-'));
  await start();
});
afterEach(async () => {
  await control.close();
  await rm(folder, { recursive: true, force: true });
});

const get = async <T>(path: string) => (await (await fetch(`${control.url}api/v1/${path}`)).json()) as T; // Of our own server.
const fleet = () => get<FleetOverview<FleetRecord>>('fleet');
const overview = () => get<Overview>('overview');
const post = async (path: string, body: object, headers: Record<string, string> = {}) =>
  (
    await fetch(`${control.url}api/v1/${path}`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'Content-Type': 'application/json', ...headers },
    })
  ).status;

test('keeps what is set by hand where every orchestrator finds it, and refuses what cannot be', async () => {
  expect(await post('fleet/servers/edge-2/drain', { isDrained: true })).toBe(204);
  expect(await post('fleet/servers/edge-9/drain', { isDrained: true })).toBe(400);
  expect(await post('tasks/digits/pin', { version: 2 })).toBe(204);
  expect(await post('tasks/digits/pin', { version: 9 })).toBe(404);
  expect(await post('tasks/signs/slo', { sloMs: 80 })).toBe(404);
  expect(await post('tasks/digits/slo?server=edge-2', { sloMs: 80 })).toBe(204);
  expect(await readFleetOverrides(paths().overridesPath)).toEqual({
    tasks: { digits: { version: 2, sloMs: 80 } },
    drained: ['edge-2'],
  });
});

test('has a page for each server that belongs to the fleet, as they come and go', async () => {
  expect((await overview()).servers).toEqual(['edge-1', 'edge-2']);
  control.setMembers(members('edge-2', 'edge-3'));
  expect((await overview()).servers).toEqual(['edge-2', 'edge-3']);
  expect((await fetch(`${control.url}api/v1/overview?server=edge-1`)).status).toBe(404);
});

test('asks for one of the tokens of the servers from when they have some', async () => {
  control.setTokens(['secret', 'other']);
  const drain = (headers?: Record<string, string>) =>
    post('fleet/servers/edge-1/drain', { isDrained: true }, headers);
  expect(await drain()).toBe(401);
  expect(await drain({ Authorization: 'Bearer other' })).toBe(204);
});

test('shows, while it waits for the lease, what the one that has it writes down', async () => {
  expect((await fleet()).state).toBeUndefined();
  control.waits();
  await writeFleetRecord(paths().statePath, record);
  await vi.waitFor(async () => expect((await fleet()).state?.plan.reason).toBe('As it was.'), 30_000);
  expect(await fleet()).toMatchObject({
    orchestrator: { isActive: false },
    tasks: [{ task: 'digits', sloMs: 80, isSloByHand: true, pinnedVersion: 2 }],
  });
  const lease = { owner: 'me', pid: 7, host: 'box', term: 4, renewedMs: 0, durationMs: 1, sinceMs: 5 };
  control.leads(lease);
  expect((await fleet()).orchestrator).toEqual({ isActive: true, pid: 7, host: 'box', term: 4, sinceMs: 5 });
});

import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import { digestOf } from '../../repository/digest.ts';
import { writeTask } from '../../repository/store.ts';
import { MANIFEST_SCHEMA_VERSION } from '../../repository/types.ts';
import { type ModelProcess, type ProcessProxy, startProcessProxy } from './process-proxy.ts';

/** Echoes what it was asked, as a server of one version would be asked. */
async function echoProcess(name: string): Promise<ModelProcess> {
  let resolve = () => {};
  const exited = new Promise<void>((done) => {
    resolve = done;
  });
  const server = createServer(async (request, response) => {
    if (request.url?.endsWith('/stats')) {
      server.closeAllConnections(); // As if it were killed.
      server.close(() => resolve());
      return;
    }
    let body = '';
    for await (const chunk of request) body += chunk;
    response.writeHead(418, { 'X-Process': name }).end(`${request.method} ${request.url} ${body}`);
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    httpUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    exited,
    close: async () => {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
      resolve();
    },
  };
}

describe('one process for each version', () => {
  let root: string;
  let proxy: ProcessProxy;
  const starts: string[] = [];
  let fails = false;

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-processes-'));
    const models = new Map([1, 2].map((version) => [version, Uint8Array.from([version])]));
    await writeTask(
      root,
      {
        schemaVersion: MANIFEST_SCHEMA_VERSION,
        task: 'digits',
        inputs: [{ name: 'x', dtype: 'float32', shape: [-1, 1] }],
        outputs: [{ name: 'y', dtype: 'float32', shape: [-1, 1] }],
        variants: [...models].map(([version, bytes]) => ({
          version,
          digest: digestOf(bytes),
          sizeBytes: bytes.byteLength,
          accuracy: { test: 1 - version / 10, testCount: 1 },
          ...{ macs: 1, parameters: 1, lineage: {}, profiles: {} },
        })),
      },
      models,
    );
    proxy = await startProcessProxy({
      ...{ repository: root, logger: pino({ level: 'silent' }), clock: systemClock },
      ...{ host: '127.0.0.1', httpPort: 0 },
      startProcess: async (task, version) => {
        starts.push(`${task}/${version}`);
        if (fails) throw new BonsaiError('load_failed', 'no memory');
        return echoProcess(`${task}/${version}`);
      },
    });
  });
  afterAll(async () => {
    await proxy.close();
    await rm(root, { recursive: true, force: true });
  });

  const ask = async (path: string, method = 'GET', body?: string) => {
    const reply = await fetch(proxy.httpUrl + path, { method, body });
    return { status: reply.status, text: await reply.text(), process: reply.headers.get('x-process') };
  };
  const states = async () =>
    (JSON.parse((await ask('/v2/repository/index', 'POST')).text) as { state: string }[]).map(
      ({ state }) => state,
    );

  it('starts one with the first request, hands requests on as they are, and starts a lost one anew', async () => {
    expect(await states()).toEqual(['UNAVAILABLE', 'UNAVAILABLE']);
    expect((await ask('/v2/health/ready')).status).toBe(200);
    expect(starts).toEqual([]);
    const infer = '/v2/models/digits/versions/2/infer';
    const [first, second] = await Promise.all([ask(infer, 'POST', '{"a":1}'), ask(infer, 'POST', 'b')]);
    expect(first).toEqual({ status: 418, text: `POST ${infer} {"a":1}`, process: 'digits/2' });
    expect(second.text).toBe(`POST ${infer} b`);
    expect(starts).toEqual(['digits/2']);
    expect(await states()).toEqual(['UNAVAILABLE', 'READY']);
    // The most accurate one answers where none is named.
    expect((await ask('/v2/models/digits')).process).toBe('digits/1');
    expect((await ask('/v2/models/digits/versions/2/stats')).status).toBe(503);
    await expect.poll(states).toEqual(['READY', 'UNAVAILABLE']);
    expect((await ask(infer, 'POST', 'again')).process).toBe('digits/2');
    expect(starts).toEqual(['digits/2', 'digits/1', 'digits/2']);
  });

  it('refuses what it does not have, and tries again what could not be started', async () => {
    expect((await ask('/v2/models/nobody')).status).toBe(404);
    expect((await ask('/v2/models/digits/versions/9')).status).toBe(404);
    expect((await ask('/v2/models/stats')).status).toBe(501);
    expect((await ask('/v2/repository/models/digits/load', 'POST')).status).toBe(503);
    await ask('/v2/models/digits/versions/2/stats');
    await expect.poll(states).toEqual(['READY', 'UNAVAILABLE']);
    fails = true;
    const failed = await ask('/v2/models/digits/versions/2');
    expect([failed.status, JSON.parse(failed.text).error]).toEqual([400, 'no memory']);
    fails = false;
    expect((await ask('/v2/models/digits/versions/2')).status).toBe(418);
  });
});

import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../src/base/clock.ts';
import { plainV2Server } from '../src/orchestrate/adapters/plain-v2-server.ts';
import { v2Server } from '../src/orchestrate/adapters/v2-server.ts';
import { observationBetween } from '../src/orchestrate/observe.ts';
import { readManifest } from '../src/repository/store.ts';
import { start } from '../src/serve/server.fixture.ts';
import type { RunningServer } from '../src/serve/server.ts';

const models = fileURLToPath(new URL('../zoo/models', import.meta.url));
const never = new AbortController().signal;

/** The adapters of a fleet against Bonsai's own server, which starts empty as servers of a fleet do. */
describe('a server of a fleet', () => {
  let server: RunningServer;
  beforeAll(async () => {
    server = await start(models, { modelControl: 'explicit', loadModels: [] });
  });
  afterAll(() => server.close());

  test('is seen empty, loaded, switched and unloaded', async () => {
    const adapter = v2Server({
      url: server.httpUrl,
      metricsUrl: new URL(server.metricsUrl).origin,
      clock: systemClock,
    });
    const serving = async () => Object.fromEntries((await adapter.observe(never, ['mnist'])).serving);
    try {
      expect(await serving()).toEqual({});
      await adapter.switchVersion('mnist', 4, never);
      expect(await serving()).toEqual({ mnist: 4 });
      await adapter.switchVersion('mnist', 10, never);
      expect(await serving()).toEqual({ mnist: 10 });
      await adapter.unload!('mnist', never);
      expect(await serving()).toEqual({});
    } finally {
      await adapter.close();
    }
  });

  test('tells by which versions it answered, and how accurate those are', async () => {
    const { httpUrl: url, metricsUrl } = server;
    const adapter = v2Server({ url, metricsUrl: new URL(metricsUrl).origin, clock: systemClock });
    try {
      await adapter.setResident!('mnist', [4, 10], new Map([[4, 1]]), never);
      const before = await adapter.observe(never, ['mnist']);
      for (const version of ['4', '10', '4']) {
        const body = JSON.stringify({
          inputs: [{ name: 'image', datatype: 'FP32', shape: [1, 1, 28, 28], data: Array(784).fill(0) }],
        });
        const answer = await fetch(`${url}/v2/models/mnist/versions/${version}/infer`, {
          method: 'POST',
          body,
        });
        expect(await answer.json()).toMatchObject({ model_version: version });
      }
      const { answered } = observationBetween(before, await adapter.observe(never, ['mnist']))!;
      const { variants } = await readManifest(models, 'mnist');
      const accuracyOf = (version: number) =>
        variants.find((variant) => variant.version === version)!.accuracy.test;
      expect(answered.get('mnist')).toEqual({
        version: 4,
        accuracy: expect.closeTo((2 * accuracyOf(4) + accuracyOf(10)) / 3, 6),
      });
    } finally {
      await adapter.unload!('mnist', never);
      await adapter.close();
    }
  });

  test('of kind v2 is seen by what every server of the protocol tells, and not changed', async () => {
    const adapter = plainV2Server({ url: server.httpUrl, clock: systemClock, cpuBudget: 2, name: 'other' });
    const loader = v2Server({ url: server.httpUrl, metricsUrl: server.metricsUrl, clock: systemClock });
    try {
      expect((await adapter.observe(never, ['mnist', 'cifar10'])).serving).toEqual(new Map());
      await loader.switchVersion('mnist', 8, never);
      const scrape = await adapter.observe(never, ['mnist', 'cifar10']);
      expect([scrape.serving, scrape.cpuBudget]).toEqual([new Map([['mnist', 8]]), 2]);
      await expect(adapter.switchVersion('mnist', 1, never)).rejects.toMatchObject({
        code: 'unsupported',
        message: 'other is of kind v2: it loads no versions, so mnist stays as it is there.',
      });
    } finally {
      await Promise.all([adapter.close(), loader.close()]);
    }
  });

  test('of kind v2 that is not ready, or not there, cannot be observed', async () => {
    const stranger = createServer((_, response) => response.writeHead(503).end('starting'));
    stranger.listen(0, '127.0.0.1');
    await once(stranger, 'listening');
    const url = `http://127.0.0.1:${(stranger.address() as AddressInfo).port}`;
    const adapter = plainV2Server({ url, clock: systemClock, cpuBudget: 1 });
    await expect(adapter.observe(never)).rejects.toMatchObject({
      code: 'server_unreachable',
      message: expect.stringContaining('answered 503: starting'),
    });
    stranger.closeAllConnections();
    stranger.close();
    await expect(adapter.observe(never)).rejects.toMatchObject({ code: 'server_unreachable' });
    await adapter.close();
  });
});

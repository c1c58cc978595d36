/**
 * Inference threads are ended 50 times under load: which requests fail, and how long until answers come again?
 * node dist/bench/bench/kill.js [times] [gap ms]
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import pino from 'pino';
import { startServer } from '../src/serve/server.ts';
import {
  CLIENT_CPU,
  clientOf,
  clock,
  openLoop,
  pinTo,
  poisson,
  quantile,
  SERVER_CPU,
  say,
  sharedNetwork,
  sleep,
  writeRepository,
} from './serve-harness.ts';

if (process.argv[2] === 'server') await serve(process.argv[3]!);
else await measure(Number(process.argv[2] ?? 50), Number(process.argv[3] ?? 600));

/** The server, in a process of its own; every message ends the thread that computes. */
async function serve(repository: string): Promise<void> {
  const server = await startServer({
    repository,
    logger: pino({ level: 'fatal' }),
    clock,
    httpPort: 0,
    metricsPort: 0,
    cpus: [SERVER_CPU],
  });
  process.on('message', async (message) => {
    if (message === 'kill') await server.models.get('cifar').current?.crashLane(0);
    else {
      await server.close();
      process.disconnect();
    }
  });
  process.send!(server.httpUrl);
}

async function measure(times: number, gapMs: number): Promise<void> {
  const network = sharedNetwork('models/resnet20-cifar10-torch2.onnx', [1, 3, 32, 32]);
  const repository = await writeRepository({ cifar: [network] });
  const child = fork(fileURLToPath(import.meta.url), ['server', repository.root]);
  child.once('exit', (code, signal) => say(`the server ended: ${signal ?? `code ${code}`}`));
  const [url] = (await once(child, 'message')) as [string];
  pinTo(CLIENT_CPU);
  const client = clientOf(url, 'cifar', network, 64);
  const startMs = clock.nowMs();
  const load = openLoop(client.infer, poisson(200, times * gapMs + 2000, 1));
  const kills: number[] = [];
  for (let i = 0; i < times; i++) {
    await sleep(Math.max(0, i * gapMs + 1000 - (clock.nowMs() - startMs)));
    kills.push(clock.nowMs() - startMs);
    if (child.connected) child.send('kill');
  }
  const sent = await load;
  // Of each kill: when the first request that was due after it was answered.
  const back = kills.map((atMs) =>
    Math.min(
      ...sent
        .filter(({ dueMs, status }) => dueMs >= atMs && status === 200)
        .map(({ dueMs, latencyMs }) => dueMs + latencyMs - atMs),
    ),
  );
  const failed = sent.filter(({ status }) => status !== 200);
  say(
    `${kills.length} threads ended, ${sent.length} requests, not answered ${failed.length} (${[...new Set(failed.map(({ status }) => status))].join(', ')})`,
  );
  say(
    `answers again after ${quantile(back, 0.5).toFixed(0)} ms (median), ${quantile(back, 1).toFixed(0)} ms at the latest; latest answer ${quantile(
      sent.map(({ latencyMs }) => latencyMs),
      1,
    ).toFixed(0)} ms after it was due`,
  );
  child.send('stop');
  await once(child, 'exit');
  await client.close();
  await repository.remove();
}

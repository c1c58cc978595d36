/**
 * What do switches under load cost? Poisson arrivals at 60 % of what ResNet-56 can take; the task switches between
 * ResNet-56 and ResNet-20 while a 45 MB ResNet-18 is loaded beside it and unloaded again. Latencies of requests due
 * within 5 s after such a change are compared with those later on, until the next one, for each of the two versions apart.
 * node dist/bench/bench/switching.js [changes] [gap ms]
 */
import {
  CLIENT_CPU,
  clientOf,
  closedLoop,
  openLoop,
  pinTo,
  poisson,
  quantile,
  type Sent,
  say,
  sharedNetwork,
  sleep,
  startServer,
  writeRepository,
} from './serve-harness.ts';

const changes = Number(process.argv[2] ?? 40);
const gapMs = Number(process.argv[3] ?? 12_000);
const AFTER_MS = 5000;
const SLO_MS = 400;
/** Until the server's code is compiled. */
const WARM_MS = 15_000;
const LOAD_RATIO = 0.6;

const SHAPE = [1, 3, 32, 32];
const resnet56 = sharedNetwork('models/resnet56-cifar10-torch2.onnx', SHAPE);
const resnet20 = sharedNetwork('models/resnet20-cifar10-torch2.onnx', SHAPE);
const large = sharedNetwork('graphs/resnet18.bn.onnx.gz', [1, 3, 224, 224]);
const repository = await writeRepository({ cifar: [resnet56, resnet20], large: [large] });
const server = await startServer(repository.root);
pinTo(CLIENT_CPU);
const client = clientOf(server.url, 'cifar', resnet56, 64);
await client.unload('large');
await client.loadVersions('cifar', [1]);
await closedLoop(client, 4, WARM_MS);
const capacity = (await closedLoop(client, 4, 2000)).rps;
const rps = capacity * LOAD_RATIO;
say(`ResNet-56 takes ${capacity.toFixed(0)} requests/s; Poisson arrivals at ${rps.toFixed(0)}/s`);

interface Change {
  readonly what: string;
  readonly beginMs: number;
  readonly endMs: number;
  readonly version: number;
}
const done: Change[] = [];
const startMs = performance.now();
const elapsed = () => performance.now() - startMs;
const load = openLoop(client.infer, poisson(rps, changes * gapMs + 1000, 7));
let version = 1;
for (let change = 0; change < changes; change++) {
  await sleep(Math.max(0, change * gapMs + 1000 - elapsed()));
  const beginMs = elapsed();
  let what = '';
  switch (change % 4) {
    case 0:
    case 2:
      version = version === 1 ? 2 : 1;
      what = `switch to ${version}`;
      await client.loadVersions('cifar', [version]);
      break;
    case 1:
      what = 'load the large one';
      await client.loadVersions('large', [1]);
      break;
    default:
      what = 'unload the large one';
      await client.unload('large');
  }
  done.push({ what, beginMs, endMs: elapsed(), version });
}
const sent = await load;
for (const kind of new Set(done.map(({ what }) => what))) {
  const of = done.filter(({ what }) => what === kind);
  const took = of.map(({ beginMs, endMs }) => endMs - beginMs);
  const during = of.flatMap(({ beginMs, endMs }) =>
    latenciesOf(sent.filter(({ dueMs }) => dueMs >= beginMs && dueMs < endMs)),
  );
  say(
    `${kind}: ${of.length} times, median ${quantile(took, 0.5).toFixed(0)} ms; requests during it: p99 ${quantile(during, 0.99).toFixed(1)}, latest ${quantile(during, 1).toFixed(1)} ms`,
  );
}
for (const answering of [1, 2]) {
  const of = done.map((change, i) => ({ ...change, nextMs: done[i + 1]?.beginMs ?? changes * gapMs + 1000 }));
  const between = (
    from: (change: (typeof of)[number]) => number,
    to: (change: (typeof of)[number]) => number,
  ) =>
    of
      .filter((change) => change.version === answering)
      .flatMap((change) =>
        latenciesOf(sent.filter(({ dueMs }) => dueMs >= from(change) && dueMs < to(change))),
      );
  const after = between(
    ({ endMs }) => endMs,
    ({ endMs, nextMs }) => Math.min(endMs + AFTER_MS, nextMs),
  );
  const quiet = between(
    ({ endMs }) => endMs + AFTER_MS,
    ({ nextMs }) => nextMs,
  );
  const [p99, quietP99] = [quantile(after, 0.99), quantile(quiet, 0.99)];
  say(
    `version ${answering}, within 5 s after a change: p50 ${quantile(after, 0.5).toFixed(2)}, p99 ${p99.toFixed(2)} ms (${after.length} requests); later: p50 ${quantile(quiet, 0.5).toFixed(2)}, p99 ${quietP99.toFixed(2)} ms (${quiet.length} requests); ratio ${(p99 / quietP99).toFixed(2)}`,
  );
}
const late = sent.filter(({ latencyMs }) => latencyMs > SLO_MS).length;
say(
  `${sent.length} requests, ${done.length} changes: failures ${failuresOf(sent).length}, later than ${SLO_MS} ms ${late}, latest ${quantile(latenciesOf(sent), 1).toFixed(1)} ms`,
);
await client.close();
await server.close();
await repository.remove();

function latenciesOf(requests: readonly Sent[]): number[] {
  return requests.map(({ latencyMs }) => latencyMs);
}

function failuresOf(requests: readonly Sent[]): readonly Sent[] {
  return requests.filter(({ status }) => status !== 200);
}

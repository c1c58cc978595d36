/**
 * What memory stays behind after many loads of a 45 MB network, what an idle server needs, and how soon it answers.
 * node dist/bench/bench/leak.js [cycles] [plain: with the allocator's own settings]
 */
import {
  CLIENT_CPU,
  clientOf,
  clock,
  pinTo,
  residentMbOf,
  say,
  sharedNetwork,
  sleep,
  startServer,
  tinyNetwork,
  writeRepository,
} from './serve-harness.ts';

const cycles = Number(process.argv[2] ?? 500);
const REFERENCE_CYCLE = 50;

const tiny = tinyNetwork();
const alone = await writeRepository({ mlp: [tiny] });
const env = process.argv[3] === 'plain' ? {} : undefined;
pinTo(CLIENT_CPU);
{
  const beginMs = clock.nowMs();
  const server = await startServer(alone.root, [], env);
  const client = clientOf(server.url, 'mlp', tiny, 1);
  const status = await client.infer();
  say(`first inference ${(clock.nowMs() - beginMs).toFixed(0)} ms after the start (status ${status})`);
  await sleep(3000);
  say(`idle with one small network: ${residentMbOf(server.pid).toFixed(0)} MB resident`);
  await client.close();
  await server.close();
}
await alone.remove();

const large = sharedNetwork('graphs/resnet18.bn.onnx.gz', [1, 3, 224, 224]);
const repository = await writeRepository({ mlp: [tiny], large: [large] });
const server = await startServer(repository.root, [], env);
const client = clientOf(server.url, 'mlp', tiny, 1);
await client.unload('large');
let reference = Number.NaN;
const startMs = clock.nowMs();
for (let cycle = 1; cycle <= cycles; cycle++) {
  await client.loadVersions('large', [1]);
  if ((await client.infer()) !== 200) say(`cycle ${cycle}: the small network did not answer`);
  await client.unload('large');
  if (cycle !== 1 && cycle % REFERENCE_CYCLE !== 0 && cycle !== cycles) continue;
  await sleep(1500); // Unloading answers at once; the memory follows.
  const resident = residentMbOf(server.pid);
  if (cycle === REFERENCE_CYCLE) reference = resident;
  say(
    `after ${cycle} cycles (${((clock.nowMs() - startMs) / 1000).toFixed(0)} s): ${resident.toFixed(0)} MB, ${(resident / reference).toFixed(2)} of that after ${REFERENCE_CYCLE}`,
  );
}
await client.close();
await server.close();
await repository.remove();

import { fuzzedGrpc } from './fuzz-grpc.ts';
import { fuzzedRest } from './fuzz-rest.ts';
import { type Fuzzed, fuzz } from './fuzz-server.ts';

/**
 * Malformed requests, every one wrong by construction, sent to a server of this process over REST and then over gRPC: each
 * must be refused with the client's own fault as reason, none may hang, and the server must serve afterwards. Run:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/fuzz.js [count each] [seed]
 */
const [count = 100_000, seed = 1] = process.argv.slice(2).map(Number);

async function measure<Sample>(fuzzed: Fuzzed<Sample>): Promise<void> {
  const startMs = performance.now();
  const { statuses, failures, heapGrowthBytes } = await fuzz(fuzzed, count, seed);
  const seconds = (performance.now() - startMs) / 1000;
  const counts = [...statuses]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([status, times]) => `${status}: ${times}`);
  process.stdout.write(
    `${fuzzed.protocol}: ${count} malformed requests, seed ${seed}, ${seconds.toFixed(0)} s; answers ${counts.join(', ')}; heap ${(heapGrowthBytes / 2 ** 20).toFixed(1)} MiB more\n`,
  );
  for (const failure of failures) process.stdout.write(`FAILED ${failure}\n`);
  if (failures.length > 0) process.exitCode = 1;
}

await measure(fuzzedRest);
await measure(fuzzedGrpc);

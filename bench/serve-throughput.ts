/**
 * How much of ONNX Runtime's own speed is left through HTTP, and what a request costs beside its inference?
 * Raw and served windows alternate; the medians of their ratios count. Linux, two CPUs, see serve-harness.ts:
 * node dist/bench/bench/serve-throughput.js [repeats] [window ms] [network…]
 */
import {
  CLIENT_CPU,
  clientOf,
  closedLoop,
  cpuSecondsOf,
  pinTo,
  quantile,
  rawRate,
  say,
  sharedNetwork,
  startServer,
  tinyNetwork,
  writeRepository,
} from './serve-harness.ts';

const repeats = Number(process.argv[2] ?? 5);
const windowMs = Number(process.argv[3] ?? 2000);
const wanted = process.argv.slice(4);

const SHAPE = [1, 3, 32, 32];
const CASES = [
  { name: 'resnet20', load: () => sharedNetwork('models/resnet20-cifar10-torch2.onnx', SHAPE), levels: [4] },
  { name: 'resnet56', load: () => sharedNetwork('models/resnet56-cifar10-torch2.onnx', SHAPE), levels: [4] },
  { name: 'mlp', load: tinyNetwork, levels: [4, 16] },
];

for (const { name, load, levels } of CASES) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const network = load();
  const repository = await writeRepository({ [name]: [network] });
  const server = await startServer(repository.root);
  pinTo(CLIENT_CPU);
  for (const concurrency of levels) {
    const client = clientOf(server.url, name, network, concurrency);
    await closedLoop(client, concurrency, 1000);
    const ratios: number[] = [];
    const rates: number[] = [];
    const beyondUs: number[] = [];
    let failures = 0;
    let before = await rawRate(network, windowMs / 2);
    for (let i = 0; i < repeats; i++) {
      const cpuBefore = cpuSecondsOf(server.pid);
      const served = await closedLoop(client, concurrency, windowMs);
      const cpuUs = ((cpuSecondsOf(server.pid) - cpuBefore) * 1e6) / (served.rps * (windowMs / 1000));
      const after = await rawRate(network, windowMs / 2);
      const raw = (before + after) / 2;
      before = after;
      ratios.push(served.rps / raw);
      rates.push(served.rps);
      beyondUs.push(cpuUs - 1e6 / raw);
      failures += served.failures;
      say(
        `  ${name} c${concurrency}: raw ${raw.toFixed(0)}/s, served ${served.rps.toFixed(0)}/s, ratio ${(served.rps / raw).toFixed(3)}, p50 ${served.p50.toFixed(2)} ms, p99 ${served.p99.toFixed(2)} ms, CPU ${cpuUs.toFixed(0)} µs a request`,
      );
    }
    say(
      `${name} c${concurrency}: median ratio ${quantile(ratios, 0.5).toFixed(3)}, ${quantile(rates, 0.5).toFixed(0)} requests/s, ${quantile(beyondUs, 0.5).toFixed(0)} µs of CPU beside the inference, failures ${failures}`,
    );
    await client.close();
  }
  await server.close();
  await repository.remove();
}

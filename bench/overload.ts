/**
 * Ten times the load that the server can take, with an objective of 400 ms: what is answered, what is refused and how
 * soon, and how long until all is well again? node dist/bench/bench/overload.js [seconds] [factor] [width]
 */
import {
  CLIENT_CPU,
  clientOf,
  closedLoop,
  openLoop,
  pinTo,
  poisson,
  quantile,
  residentMbOf,
  say,
  slowNetwork,
  startServer,
  writeRepository,
} from './serve-harness.ts';

const seconds = Number(process.argv[2] ?? 60);
const factor = Number(process.argv[3] ?? 10);
const width = Number(process.argv[4] ?? 96);
const SLO_MS = 400;
const RECOVERY_RATIO = 0.5;

const network = slowNetwork(width);
const repository = await writeRepository({ slow: [network] });
const server = await startServer(repository.root, ['--slo', `${SLO_MS}ms`]);
pinTo(CLIENT_CPU);
const client = clientOf(server.url, 'slow', network, 256);
await closedLoop(client, 4, 2000);
const before = (await closedLoop(client, 4, 3000)).rps;
const residentBefore = residentMbOf(server.pid);
const load = openLoop(client.infer, poisson(before * factor, seconds * 1000, 1));
const samples: number[] = [];
const sampling = setInterval(() => samples.push(residentMbOf(server.pid)), 1000);
const sent = await load;
clearInterval(sampling);
const recovery = await openLoop(client.infer, poisson(before * RECOVERY_RATIO, 4000, 2));
const after = (await closedLoop(client, 4, 3000)).rps;
const capacity = (before + after) / 2;

const answered = sent.filter(({ status }) => status === 200);
const inTime = answered.filter(({ latencyMs }) => latencyMs <= SLO_MS);
const refused = sent.filter(({ status }) => status === 503).map(({ latencyMs }) => latencyMs);
const others = sent.length - answered.length - refused.length;
say(
  `capacity ${capacity.toFixed(0)}/s (before ${before.toFixed(0)}, after ${after.toFixed(0)}); ${sent.length} requests in ${seconds} s`,
);
say(
  `answered ${answered.length}, within ${SLO_MS} ms ${((100 * inTime.length) / answered.length).toFixed(2)} %, p99 ${quantile(
    answered.map(({ latencyMs }) => latencyMs),
    0.99,
  ).toFixed(0)} ms; goodput ${((100 * inTime.length) / seconds / capacity).toFixed(1)} % of capacity`,
);
say(
  `refused ${refused.length}: p50 ${quantile(refused, 0.5).toFixed(1)}, p99 ${quantile(refused, 0.99).toFixed(1)}, latest ${quantile(refused, 1).toFixed(1)} ms, within 20 ms ${((100 * refused.filter((ms) => ms <= 20).length) / refused.length).toFixed(2)} %; anything else ${others}`,
);
say(
  `resident memory ${residentBefore.toFixed(0)} MB before, ${quantile(samples, 0.5).toFixed(0)} median, ${quantile(samples, 1).toFixed(0)} most, ${samples.at(-1)?.toFixed(0)} at the end`,
);
const bad = recovery.filter(({ status, latencyMs }) => status !== 200 || latencyMs > SLO_MS);
say(
  `after it, at half the capacity: last request not answered in time ${bad.length === 0 ? 'none' : `${bad.at(-1)!.dueMs.toFixed(0)} ms after the end`}`,
);
await client.close();
await server.close();
await repository.remove();

import { Pool } from 'undici';
import type { Clock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import type { Scrape } from '../observe.ts';
import type { ServerAdapter } from '../server-adapter.ts';
import { connectOptionsOf, exchange, expectOk, type TlsTrust } from './v2-exchange.ts';
import { tensorsIn } from './v2-metadata.ts';
import { OBSERVE_TIMEOUT_MS } from './v2-server.ts';

export interface PlainV2ServerOptions {
  /** Where the Open Inference Protocol is spoken, as `http://127.0.0.1:8000`. */
  readonly url: string;
  readonly clock: Clock;
  readonly token?: string;
  readonly cpuBudget: number;
  readonly trust?: TlsTrust;
  readonly name?: string;
}

/**
 * A server that speaks the Open Inference Protocol and nothing more: no repository extension, no metrics. It is seen
 * whether it is ready, and which of the tasks it serves (the highest version that the model's metadata list; 1 where they
 * list none); requests are balanced to it, and nothing on it is changed. Its share of demand and its CPU stay unknown.
 */
export function plainV2Server(options: PlainV2ServerOptions): ServerAdapter {
  const pool = new Pool(new URL(options.url).origin, {
    connections: 4,
    ...(options.trust && { connect: connectOptionsOf(options.trust) }),
  });
  const name = options.name ?? options.url;
  const get = (path: string, signal: AbortSignal) =>
    exchange(pool, { method: 'GET', path, timeoutMs: OBSERVE_TIMEOUT_MS, signal }, name, options.token);
  return {
    name,
    async observe(signal, tasks = []) {
      const ask = (path: string) => get(path, signal);
      expectOk(await ask('/v2/health/ready'), 'GET /v2/health/ready', name);
      const serving = new Map<string, number>();
      await Promise.all(
        tasks.map(async (task) => {
          const path = `/v2/models/${encodeURIComponent(task)}`;
          if ((await ask(`${path}/ready`)).status !== 200) return;
          const metadata = await ask(path);
          if (metadata.status === 200) serving.set(task, highestVersion(metadata.body));
        }),
      );
      return {
        atMs: options.clock.nowMs(),
        requests: new Map(),
        countedAt: 'end',
        serving,
        loading: new Map(),
        queued: new Map(),
        cpuBudget: options.cpuBudget,
      } satisfies Scrape;
    },
    async tensors(task, signal) {
      const path = `/v2/models/${encodeURIComponent(task)}`;
      const answer = await get(path, signal);
      expectOk(answer, `GET ${path}`, name);
      return tensorsIn(answer.body);
    },
    async switchVersion(task) {
      throw new BonsaiError(
        'unsupported',
        `${name} is of kind v2: it loads no versions, so ${task} stays as it is there.`,
      );
    },
    close: () => pool.destroy(),
  };
}

function highestVersion(body: string): number {
  let versions: unknown;
  try {
    versions = JSON.parse(body)?.versions;
  } catch {
    // No metadata that anybody understands.
  }
  const numbers = (Array.isArray(versions) ? versions : []).map(Number).filter(Number.isInteger);
  return Math.max(1, ...numbers);
}

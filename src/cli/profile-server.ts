import { Pool } from 'undici';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { describeForeignTarget, parseTarget, type TargetDescription } from '../engine/target.ts';
import { parseServerUrl } from './parse.ts';

/** What measuring asks of a server beside inferences. */
export interface ProfiledServer {
  readonly url: string;
  /**
   * What it runs on: as it says itself, else by its host.
   * @param unknown what only the caller can know of a server that does not say
   */
  target(unknown: { readonly name?: string; readonly cpus: number }): Promise<TargetDescription>;
  /** The versions of a task that are ready, ascending. */
  readyVersions(task: string): Promise<number[]>;
  /** Makes these versions of a task ready and no others. @throws BonsaiError `load_failed`, `invalid_config` (token) */
  load(task: string, versions: readonly number[]): Promise<void>;
  unload(task: string): Promise<void>;
  /** What the server has counted of a version's computing; undefined where it counts nothing. */
  computed(task: string, version: number): Promise<{ count: number; ns: number } | undefined>;
  close(): Promise<void>;
}

/** A load answers when it is complete: a large network on a busy CPU takes tens of seconds. */
export const LOAD_TIMEOUT_MS = 120_000;

/** Everything else answers at once, unless the CPU is saturated. */
export const ANSWER_TIMEOUT_MS = 10_000;

/**
 * A server of the Open Inference Protocol with Triton's repository extension, as `bonsai profile` needs it.
 * @param options.token sent with all requests, for servers that ask for it to load
 * @throws InvalidArgumentError for a URL that is none; every call: BonsaiError `server_unreachable`, `aborted`
 */
export function profiledServer(options: {
  readonly url: string;
  readonly token?: string;
  readonly signal: AbortSignal;
}): ProfiledServer {
  const origin = parseServerUrl(options.url);
  const pool = new Pool(origin, { connections: 2, headersTimeout: 0, bodyTimeout: 0 });
  const { token, signal } = options;
  const ask = async (method: 'GET' | 'POST', path: string, body?: unknown, timeoutMs = ANSWER_TIMEOUT_MS) => {
    try {
      const response = await pool.request({
        method,
        path,
        body: body === undefined ? null : JSON.stringify(body),
        headers: {
          ...(body !== undefined && { 'content-type': 'application/json' }),
          ...(token !== undefined && { authorization: `Bearer ${token}` }),
        },
        signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
      });
      const text = await response.body.text();
      return { status: response.statusCode, text };
    } catch (cause) {
      if (signal.aborted) throw new BonsaiError('aborted', 'Profiling was stopped.', { cause });
      const timedOut = cause instanceof Error && cause.name === 'TimeoutError';
      throw new BonsaiError(
        'server_unreachable',
        `${method} ${path} on ${origin} failed: ${timedOut ? `no answer within ${timeoutMs} ms` : messageOf(cause)}. ` +
          'Is a server of the Open Inference Protocol running there?',
        { cause },
      );
    }
  };
  const modelPath = (task: string) => `/v2/models/${encodeURIComponent(task)}`;
  const repositoryPath = (task: string) => `/v2/repository/models/${encodeURIComponent(task)}`;

  return {
    url: origin,
    async target({ name, cpus }) {
      const { status, text } = await ask('GET', '/v2');
      const metadata = jsonOf(text) as { name?: unknown; version?: unknown; target?: unknown } | undefined;
      if (status !== 200 || metadata === undefined) {
        throw new BonsaiError(
          'server_unreachable',
          `${origin}/v2 answered ${status} and no metadata: this is no server of the Open Inference Protocol.`,
        );
      }
      const own = parseTarget(metadata.target);
      if (own !== undefined) return own;
      return describeForeignTarget({
        host: new URL(origin).hostname,
        name,
        cpus,
        runtime: String(metadata.name ?? 'unknown'),
        runtimeVersion: String(metadata.version ?? 'unknown'),
      });
    },
    async readyVersions(task) {
      const { status, text } = await ask('POST', '/v2/repository/index', {});
      const entries = status === 200 ? jsonOf(text) : undefined;
      if (!Array.isArray(entries)) return [];
      return (entries as { name?: unknown; version?: unknown; state?: unknown }[])
        .filter((entry) => entry?.name === task && String(entry.state).toUpperCase() === 'READY')
        .map(({ version }) => Number(version))
        .filter((version) => Number.isInteger(version) && version > 0)
        .sort((a, b) => a - b);
    },
    async load(task, versions) {
      const config = JSON.stringify({ version_policy: { specific: { versions } } });
      const path = `${repositoryPath(task)}/load`;
      const { status, text } = await ask('POST', path, { parameters: { config } }, LOAD_TIMEOUT_MS);
      if (status === 200) return;
      if (status === 401 || status === 403) throw refusedToken(origin);
      const what = `Version ${versions.join(' and ')} of "${task}" cannot be loaded on ${origin}`;
      throw new BonsaiError('load_failed', `${what} (status ${status}): ${errorText(text)}`);
    },
    async unload(task) {
      const { status, text } = await ask('POST', `${repositoryPath(task)}/unload`, {}, LOAD_TIMEOUT_MS);
      if (status === 401 || status === 403) throw refusedToken(origin);
      if (status !== 200)
        throw new BonsaiError('load_failed', `"${task}" cannot be unloaded on ${origin}: ${errorText(text)}`);
    },
    async computed(task, version) {
      const { status, text } = await ask('GET', `${modelPath(task)}/versions/${version}/stats`);
      return status === 200 ? computedIn(jsonOf(text)) : undefined;
    },
    close: () => pool.destroy(),
  };
}

/** `model_stats[0].inference_stats.compute_infer` of the statistics extension. */
function computedIn(body: unknown): { count: number; ns: number } | undefined {
  const stats = (body as { model_stats?: { inference_stats?: { compute_infer?: unknown } }[] } | undefined)
    ?.model_stats?.[0]?.inference_stats?.compute_infer as { count?: unknown; ns?: unknown } | undefined; // Checked next.
  if (typeof stats?.count !== 'number' || typeof stats.ns !== 'number') return undefined;
  return { count: stats.count, ns: stats.ns };
}

function refusedToken(origin: string): BonsaiError {
  return new BonsaiError(
    'invalid_config',
    `${origin} asks for its administration token to load versions: give it with --token-file.`,
  );
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function errorText(text: string): string {
  const parsed = jsonOf(text) as { error?: unknown } | undefined;
  return typeof parsed?.error === 'string' ? parsed.error : text.slice(0, 200) || 'no reason given';
}

import { Pool } from 'undici';
import type { Clock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import type { Scrape, VersionAnswers } from '../observe.ts';
import type { ServerAdapter } from '../server-adapter.ts';
import type { CpuReader } from './process-cpu.ts';
import { type MetricSample, parsePrometheusText, seriesKey } from './prometheus-text.ts';
import {
  type Answer,
  connectOptionsOf,
  errorText,
  exchange,
  expectOk,
  type Request,
  refusedToken,
  type TlsTrust,
} from './v2-exchange.ts';
import { tensorsIn } from './v2-metadata.ts';

export interface V2ServerOptions {
  /** Where the Open Inference Protocol is spoken, as `http://127.0.0.1:8000`. */
  readonly url: string;
  /** Where /metrics is, as `http://127.0.0.1:8002`. */
  readonly metricsUrl: string;
  readonly clock: Clock;
  /** Sent as `Authorization: Bearer …` to both. */
  readonly token?: string;
  /** The server's CPU where it does not tell itself (`process_cpu_seconds_total`), as with Triton. */
  readonly cpu?: CpuReader;
  /** Cores given to the server where it does not tell itself (`bonsai_cpu_budget_cores`). */
  readonly cpuBudget?: number;
  /** For a server at a loopback address, whose certificate names another. Default false. */
  readonly trustsAnyCertificate?: boolean;
  readonly trust?: TlsTrust;
  readonly name?: string;
  readonly observeTimeoutMs?: number;
  readonly loadTimeoutMs?: number;
}

/** A look takes milliseconds; a server that needs longer than two periods of the loop counts as not there. */
export const OBSERVE_TIMEOUT_MS = 2_000;

/** A load answers when it is complete: a large network on a busy CPU takes tens of seconds. */
export const LOAD_TIMEOUT_MS = 120_000;

/** One connection for looks, one for a load under way, two spare. */
const CONNECTIONS = 4;

/**
 * A server that speaks the Open Inference Protocol with Triton's repository extension: Bonsai's own, Triton.
 * Demand comes from `bonsai_requests_total`, else from `nv_inference_request_success` and `…_failure` (Triton
 * counts a request refused by a full queue in neither); versions from `bonsai_serving_version`, else from the
 * repository index: the highest READY one, which is the one that answers clients that name none (Triton's rule, also
 * where several versions are resident). The index also tells a task that is still loading from one that nobody
 * loads; where the metrics name a serving version of every task it is not asked for.
 * A version is switched by loading the model with a version policy that names only it, so Triton must run in
 * explicit model control mode.
 */
export function v2Server(options: V2ServerOptions): ServerAdapter {
  const pooling = {
    connections: CONNECTIONS,
    ...(options.trustsAnyCertificate && { connect: { rejectUnauthorized: false } }),
    ...(options.trust && { connect: connectOptionsOf(options.trust) }),
  };
  const api = new Pool(new URL(options.url).origin, pooling);
  const metrics = new Pool(new URL(options.metricsUrl).origin, pooling);
  const name = options.name ?? options.url;
  const send = (pool: Pool, request: Request) => exchange(pool, request, name, options.token);
  const load = async (
    task: string,
    versions: readonly number[],
    shares: ReadonlyMap<number, number> | undefined,
    signal: AbortSignal,
  ): Promise<void> => {
    const path = `/v2/repository/models/${encodeURIComponent(task)}/load`;
    const config = JSON.stringify({
      version_policy: { specific: { versions } },
      ...(shares !== undefined && {
        parameters: { 'bonsai.shares': { string_value: JSON.stringify(Object.fromEntries(shares)) } },
      }),
    });
    const body = JSON.stringify({ parameters: { config } });
    const timeoutMs = options.loadTimeoutMs ?? LOAD_TIMEOUT_MS;
    const answer = await send(api, { method: 'POST', path, body, timeoutMs, signal });
    expectDone(answer, `Loading version ${versions.join(', ')} of ${task} on ${name}`, name);
  };

  return {
    name,
    async observe(signal, tasks = []) {
      const timeoutMs = options.observeTimeoutMs ?? OBSERVE_TIMEOUT_MS;
      const page = await send(metrics, { method: 'GET', path: '/metrics', timeoutMs, signal });
      expectOk(page, 'GET /metrics', name);
      const samples = parsePrometheusText(page.body);
      const atMs = options.clock.nowMs();
      const cpuSeconds = options.cpu
        ? await options.cpu.cpuSeconds()
        : gaugeOf(samples, 'process_cpu_seconds_total');
      const measured = positive(byModel(samples, 'bonsai_serving_version'));
      let listed: Listed = { serving: new Map(), loading: new Map(), resident: new Map() };
      if (measured.size === 0 || tasks.some((task) => !measured.has(task))) {
        const path = '/v2/repository/index';
        const index = await send(api, { method: 'POST', path, body: '{}', timeoutMs, signal });
        expectOk(index, `POST ${path}`, name);
        listed = listedIn(index.body, name);
      }
      const waiting = byModel(samples, 'bonsai_queue_length');
      // Bonsai has a series of this for each version in memory, and none for others; of other servers the index tells.
      const loaded = versionsByModel(samples, 'bonsai_planned_service_seconds');
      return {
        atMs,
        ...requestsOf(samples),
        serving: new Map([...listed.serving, ...measured]),
        loading: listed.loading,
        resident: loaded.size > 0 ? mapped(loaded, (versions) => [...versions.keys()]) : listed.resident,
        planned: mapped(loaded, (versions) =>
          [...versions].map(([version, seconds]) => ({ version, serviceMs: 1000 * seconds })),
        ),
        batchRequests: byModel(samples, 'bonsai_batch_requests_total'),
        violations: violationsOf(samples),
        answers: answersOf(samples),
        queued: waiting.size > 0 ? waiting : byModel(samples, 'nv_inference_pending_request_count'),
        cpuSeconds,
        cpuBudget: options.cpuBudget ?? gaugeOf(samples, 'bonsai_cpu_budget_cores') ?? 1,
        slots: gaugeOf(samples, 'bonsai_slots'),
        memoryBytes: gaugeOf(samples, 'process_resident_memory_bytes'),
        ownPolicy: samples.find((sample) => sample.name === 'bonsai_policy_info')?.labels.policy,
      } satisfies Scrape;
    },
    async tensors(task, signal) {
      const path = `/v2/models/${encodeURIComponent(task)}`;
      const timeoutMs = options.observeTimeoutMs ?? OBSERVE_TIMEOUT_MS;
      const answer = await send(api, { method: 'GET', path, timeoutMs, signal });
      expectOk(answer, `GET ${path}`, name);
      return tensorsIn(answer.body);
    },
    switchVersion: (task, version, signal) => load(task, [version], undefined, signal),
    setResident: load,
    async unload(task, signal) {
      const path = `/v2/repository/models/${encodeURIComponent(task)}/unload`;
      const timeoutMs = options.loadTimeoutMs ?? LOAD_TIMEOUT_MS;
      const answer = await send(api, { method: 'POST', path, body: '{}', timeoutMs, signal });
      expectDone(answer, `Unloading ${task} on ${name}`, name);
    },
    async close() {
      await Promise.all([api.destroy(), metrics.destroy()]);
    },
  };
}

/**
 * Tritons before 24.01 answer 400 whatever went wrong and newer ones 500 for a model that is not there, so the
 * text decides where the status does not.
 */
function expectDone({ status, body }: Answer, what: string, name: string): void {
  if (status >= 200 && status < 300) return;
  if (status === 401 || status === 403) throw refusedToken(status, what, name);
  const text = errorText(body);
  const message = `${what} failed with ${status}: ${text}`;
  if (status === 503) throw new BonsaiError('not_ready', message);
  if (/version \S+ is not found|version .* not found/i.test(text))
    throw new BonsaiError('version_not_found', message);
  if (status === 404 || /not found|failed to poll|unknown model/i.test(text)) {
    throw new BonsaiError('model_not_found', message);
  }
  throw new BonsaiError('load_failed', message);
}

/** Counters of arrived requests: Bonsai's if the page has any, else Triton's. */
function requestsOf(samples: readonly MetricSample[]): Pick<Scrape, 'requests' | 'countedAt'> {
  const own = samples.filter((sample) => sample.name === 'bonsai_requests_total');
  const counters =
    own.length > 0
      ? own
      : samples.filter(({ name }) => /^nv_inference_request_(success|failure)$/.test(name));
  const requests = new Map<string, Map<string, number>>();
  for (const sample of counters) {
    const task = sample.labels.model;
    if (task === undefined || !Number.isFinite(sample.value)) continue;
    const series = requests.get(task) ?? new Map<string, number>();
    series.set(seriesKey(sample), sample.value);
    requests.set(task, series);
  }
  return { requests, countedAt: own.length > 0 ? 'arrival' : 'end' };
}

/** Requests refused or given up, and those answered after their objective, by model and series. */
function violationsOf(samples: readonly MetricSample[]): Map<string, Map<string, number>> {
  const violations = new Map<string, Map<string, number>>();
  for (const sample of samples) {
    const isRefusal = sample.name === 'bonsai_requests_refused_total';
    const isLate = sample.name === 'bonsai_deadline_slack_seconds_bucket' && Number(sample.labels.le) === 0;
    const { model } = sample.labels;
    if (model === undefined || !(isRefusal || isLate)) continue;
    const series = violations.get(model) ?? new Map<string, number>();
    series.set(seriesKey(sample), sample.value);
    violations.set(model, series);
  }
  return violations;
}

function answersOf(samples: readonly MetricSample[]): Map<string, Map<number, VersionAnswers>> {
  const counts = versionsByModel(samples, 'nv_inference_request_success');
  return mapped(
    versionsByModel(samples, 'bonsai_version_accuracy_ratio'),
    (accuracies, task) =>
      new Map(
        [...accuracies].map(([version, accuracy]) => [
          version,
          { count: counts.get(task)?.get(version) ?? 0, accuracy },
        ]),
      ),
  );
}

/** A figure by model and version, ascending. */
function versionsByModel(samples: readonly MetricSample[], name: string): Map<string, Map<number, number>> {
  const values = new Map<string, Map<number, number>>();
  const own = samples
    .filter((sample) => sample.name === name)
    .sort((a, b) => Number(a.labels.version) - Number(b.labels.version));
  for (const { labels, value } of own) {
    const version = Number(labels.version);
    if (labels.model === undefined || !Number.isInteger(version)) continue;
    const versions = values.get(labels.model) ?? new Map<number, number>();
    values.set(labels.model, versions.set(version, value));
  }
  return values;
}

function mapped<A, B>(map: ReadonlyMap<string, A>, transform: (value: A, key: string) => B): Map<string, B> {
  return new Map([...map].map(([key, value]) => [key, transform(value, key)]));
}

/** A gauge by model, summed over its other labels. */
function byModel(samples: readonly MetricSample[], name: string): Map<string, number> {
  const values = new Map<string, number>();
  for (const sample of samples) {
    const task = sample.labels.model;
    if (sample.name !== name || task === undefined || !Number.isFinite(sample.value)) continue;
    values.set(task, (values.get(task) ?? 0) + sample.value);
  }
  return values;
}

/** Without entries of 0, by which a gauge says "none". */
function positive(values: ReadonlyMap<string, number>): Map<string, number> {
  return new Map([...values].filter(([, value]) => value > 0));
}

function gaugeOf(samples: readonly MetricSample[], name: string): number | undefined {
  const value = samples.find((sample) => sample.name === name)?.value;
  return Number.isFinite(value) ? value : undefined;
}

/** What a repository index says of each model. */
type Listed = Pick<Scrape, 'serving' | 'loading'> & { readonly resident: Map<string, number[]> };

/**
 * The READY versions of each model and the highest of them, and those that come or go: LOADING with its version where it has one,
 * UNLOADING as unnamed (what follows is not known yet). UNAVAILABLE, UNKNOWN and a name alone are neither: such a model
 * is absent. KServe's own servers write "Ready".
 */
function listedIn(body: string, name: string): Listed {
  const fail = () =>
    new BonsaiError('invalid_request', `The repository index of ${name} is not a list of models.`);
  let entries: unknown;
  try {
    entries = JSON.parse(body);
  } catch {
    throw fail();
  }
  if (!Array.isArray(entries)) throw fail();
  const serving = new Map<string, number>();
  const loading = new Map<string, number | 'unnamed'>();
  const resident = new Map<string, number[]>();
  for (const entry of entries as unknown[]) {
    if (typeof entry !== 'object' || entry === null || !('name' in entry)) throw fail();
    // A model that was never loaded has only a name.
    const state = 'state' in entry ? String(entry.state).toUpperCase() : '';
    const task = String(entry.name);
    const number = 'version' in entry ? Number(entry.version) : Number.NaN;
    const version = Number.isInteger(number) && number > 0 ? number : undefined;
    if (state === 'READY' && version !== undefined) {
      serving.set(task, Math.max(version, serving.get(task) ?? 0));
      resident.set(
        task,
        [...(resident.get(task) ?? []), version].sort((a, b) => a - b),
      );
    } else if (state === 'LOADING') loading.set(task, version ?? loading.get(task) ?? 'unnamed');
    else if (state === 'UNLOADING' && !loading.has(task)) loading.set(task, 'unnamed');
  }
  return { serving, loading, resident };
}

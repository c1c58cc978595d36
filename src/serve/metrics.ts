import { cpus, freemem, totalmem } from 'node:os';
import { Counter, Gauge, type Metric, Registry } from 'prom-client';
import type { DataPlane } from './data-plane.ts';
import { cumulativeCounts, type Histogram } from './histogram.ts';
import type { LiveVersion } from './live-version.ts';
import type { ModelRegistry } from './model-registry.ts';
import type { ServedModel } from './served-model.ts';
import { FAILURE_REASONS, type VersionStatistics } from './statistics.ts';

/** Where metrics read from. Nothing is counted here: every scrape writes the series anew, so unloaded versions leave none. */
export interface MetricSources {
  readonly models: ModelRegistry;
  readonly plane: DataPlane;
  /** Inferences at a time. */
  readonly slots: number;
  readonly cpuBudgetCores: number;
  /** Name of the policy that decides in this process, if one does. */
  readonly policy: () => string | undefined;
}

const US_PER_NS = 1e-3;

/** Triton's metrics under Triton's names, and what an orchestrator needs beyond them under `bonsai_`. */
export function createMetrics(sources: MetricSources): Registry {
  const registry = new Registry();
  const registers = [registry];
  const labelNames = ['model', 'version'];

  const perVersion = (name: string, help: string, value: (statistics: VersionStatistics) => number) =>
    new Counter({
      name,
      help,
      labelNames,
      registers,
      collect() {
        this.reset();
        for (const { model, live } of versionsOf(sources))
          this.inc(labelsOf(model, live), value(live.statistics));
      },
    });
  perVersion('nv_inference_request_success', 'Successful inference requests', (s) => s.success.count);
  perVersion('nv_inference_count', 'Inferences performed (batch sizes added up)', (s) => s.inferenceCount);
  perVersion('nv_inference_exec_count', 'Executions of the model', (s) => s.executionCount);
  perVersion(
    'nv_inference_request_duration_us',
    'Cumulative duration of requests',
    (s) => s.success.ns * US_PER_NS,
  );
  perVersion('nv_inference_queue_duration_us', 'Cumulative time of waiting', (s) => s.queue.ns * US_PER_NS);
  perVersion(
    'nv_inference_compute_input_duration_us',
    'Cumulative time of handling inputs',
    (s) => s.computeInput.ns * US_PER_NS,
  );
  perVersion(
    'nv_inference_compute_infer_duration_us',
    'Cumulative time of inference',
    (s) => s.computeInfer.ns * US_PER_NS,
  );
  perVersion(
    'nv_inference_compute_output_duration_us',
    'Cumulative time of handling outputs',
    (s) => s.computeOutput.ns * US_PER_NS,
  );

  new Counter({
    name: 'nv_inference_request_failure',
    help: 'Failed inference requests by reason',
    labelNames: [...labelNames, 'reason'],
    registers,
    collect() {
      this.reset();
      for (const { model, live } of versionsOf(sources)) {
        for (const reason of FAILURE_REASONS) {
          this.inc({ ...labelsOf(model, live), reason }, live.statistics.failures[reason]);
        }
      }
    },
  });
  new Gauge({
    name: 'nv_inference_pending_request_count',
    help: 'Requests bound to or running on the version',
    labelNames,
    registers,
    collect() {
      this.reset();
      for (const { model, live } of versionsOf(sources))
        this.set(labelsOf(model, live), sources.plane.pending(live));
    },
  });
  new Gauge({
    name: 'nv_model_load_duration_secs',
    help: 'Time from the wish to the readiness of the version',
    labelNames,
    registers,
    collect() {
      this.reset();
      for (const { model, live } of versionsOf(sources)) this.set(labelsOf(model, live), live.loadMs / 1000);
    },
  });
  registerHistogram(
    registry,
    'bonsai_queue_seconds',
    'Waiting time of answered requests',
    sources,
    (statistics) => statistics.queueSeconds,
  );
  registerHistogram(
    registry,
    'bonsai_deadline_slack_seconds',
    'Time left to the latency objective when the answer was there; negative where it was late',
    sources,
    (statistics) => statistics.slackSeconds,
  );
  new Gauge({
    name: 'bonsai_planned_service_seconds',
    help: 'Time of one request that dispatching reckons with, inference and overhead, measured as requests come',
    labelNames,
    registers,
    collect() {
      this.reset();
      for (const { model, live } of versionsOf(sources))
        this.set(labelsOf(model, live), live.resident.serviceMs / 1000);
    },
  });
  new Gauge({
    name: 'bonsai_version_accuracy_ratio',
    help: 'Accuracy of the version on its test data',
    labelNames,
    registers,
    collect() {
      this.reset();
      for (const { model, live } of versionsOf(sources))
        if (live.accuracy !== undefined) this.set(labelsOf(model, live), live.accuracy);
    },
  });
  new Counter({
    name: 'bonsai_served_accuracy_total',
    help: 'Accuracy of the answering version, summed over its answers; over nv_inference_request_success: the mean served',
    labelNames,
    registers,
    collect() {
      this.reset();
      for (const { model, live } of versionsOf(sources))
        if (live.accuracy !== undefined)
          this.inc(labelsOf(model, live), live.accuracy * live.statistics.success.count);
    },
  });
  new Gauge({
    name: 'bonsai_in_flight_bytes',
    help: 'Bytes of all requests in the server, over all protocols',
    registers,
    collect() {
      this.set(sources.plane.bytes.used);
    },
  });
  registerMachine(registry, sources.cpuBudgetCores);
  new Counter({
    name: 'bonsai_requests_total',
    help: 'Arrivals by what became of them at the door; their sum over outcomes is the demand',
    labelNames: ['model', 'outcome'],
    registers,
    collect() {
      this.reset();
      for (const model of loadedModels(sources)) {
        for (const [outcome, count] of Object.entries(model.arrivals))
          this.inc({ model: model.name, outcome }, count);
      }
    },
  });
  new Counter({
    name: 'bonsai_batch_requests_total',
    help: 'Arrivals of the batch class, which has no deadline; part of bonsai_requests_total',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      for (const model of loadedModels(sources)) this.inc({ model: model.name }, model.batchArrivals);
    },
  });
  new Counter({
    name: 'bonsai_requests_refused_total',
    help: 'Requests refused: at once (queue_full, deadline_exceeded, memory), after waiting in vain (expired), for others (overload)',
    labelNames: ['model', 'reason'],
    registers,
    collect() {
      this.reset();
      for (const model of loadedModels(sources)) {
        for (const [reason, count] of model.refusals) this.inc({ model: model.name, reason }, count);
      }
    },
  });
  new Gauge({
    name: 'bonsai_queue_length',
    help: 'Requests with a deadline that wait for a slot',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      for (const model of loadedModels(sources)) this.set({ model: model.name }, sources.plane.queued(model));
    },
  });
  new Gauge({
    name: 'bonsai_batch_queue_length',
    help: 'Requests of the batch class that wait for idle time',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      for (const model of loadedModels(sources))
        this.set({ model: model.name }, sources.plane.queuedBatch(model));
    },
  });
  new Gauge({
    name: 'bonsai_serving_version',
    help: 'The version that answers requests which name none',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      for (const model of sources.models.models.values()) {
        if (model.current !== undefined) this.set({ model: model.name }, model.current.version);
      }
    },
  });
  new Counter({
    name: 'bonsai_version_load_failures_total',
    help: 'Times that a version of the model could not be loaded; what served before still does',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      const loaded = new Set(loadedModels(sources));
      for (const model of sources.models.models.values()) {
        // One that failed at the start has never been loaded, and is to be seen all the same.
        if (loaded.has(model) || model.loadFailures > 0) this.inc({ model: model.name }, model.loadFailures);
      }
    },
  });
  new Gauge({
    name: 'bonsai_request_overhead_seconds',
    help: 'What a request costs beside its inference (sockets, decoding, choosing), measured while others wait',
    registers,
    collect() {
      this.set(sources.plane.overheadMs / 1000);
    },
  });
  new Gauge({
    name: 'bonsai_cpu_budget_cores',
    help: 'CPUs given to the server',
    registers,
    collect() {
      this.set(sources.cpuBudgetCores);
    },
  });
  new Gauge({
    name: 'bonsai_slots',
    help: 'Inferences that the server computes at a time',
    registers,
    collect() {
      this.set(sources.slots);
    },
  });
  new Gauge({
    name: 'bonsai_policy_info',
    help: 'The policy that decides in this server itself; none without one',
    labelNames: ['policy'],
    registers,
    collect() {
      this.reset();
      const policy = sources.policy();
      if (policy !== undefined) this.set({ policy }, 1);
    },
  });
  new Counter({
    name: 'process_cpu_seconds_total',
    help: 'User and system CPU time of the server, all threads',
    registers,
    collect() {
      const { user, system } = process.cpuUsage();
      this.reset();
      this.inc((user + system) / 1e6);
    },
  });
  new Gauge({
    name: 'process_resident_memory_bytes',
    help: 'Resident memory of the server',
    registers,
    collect() {
      this.set(process.memoryUsage.rss());
    },
  });
  return registry;
}

/** Series of a model that is not loaded any more would stay for ever. */
function* loadedModels({ models }: MetricSources): Iterable<ServedModel> {
  for (const model of models.models.values())
    if (model.liveVersions.length > 0 || model.isReviving) yield model;
}

/** A histogram whose counts are kept elsewhere, in the statistics of versions. */
function registerHistogram(
  registry: Registry,
  name: string,
  help: string,
  sources: MetricSources,
  histogramOf: (statistics: VersionStatistics) => Histogram,
): void {
  const get = async () => {
    const values: { labels: Record<string, string | number>; value: number; metricName: string }[] = [];
    for (const { model, live } of versionsOf(sources)) {
      const labels = labelsOf(model, live);
      const histogram = histogramOf(live.statistics);
      const counts = cumulativeCounts(histogram);
      counts.forEach((value, i) => {
        const le = histogram.bounds[i] ?? '+Inf';
        values.push({ labels: { ...labels, le }, value, metricName: `${name}_bucket` });
      });
      values.push({ labels, value: histogram.sum, metricName: `${name}_sum` });
      values.push({ labels, value: counts.at(-1)!, metricName: `${name}_count` });
    }
    return { name, help, type: 'histogram' as const, aggregator: 'sum' as const, values };
  };
  // The registry needs no more of a metric than its name and this method.
  registry.registerMetric({ name, get } as unknown as Metric);
}

/** Triton's metrics of the machine, and how much of its budget the server uses; ratios are since the last scrape. */
function registerMachine(registry: Registry, budgetCores: number): void {
  const registers = [registry];
  let machine = machineTimes();
  let used = process.cpuUsage();
  let lastNs = process.hrtime.bigint();
  new Gauge({
    name: 'nv_cpu_utilization',
    help: 'CPU utilization of the machine since the last scrape [0, 1]',
    registers,
    collect() {
      const now = machineTimes();
      const total = now.total - machine.total;
      this.set(total > 0 ? (now.busy - machine.busy) / total : 0);
      machine = now;
    },
  });
  new Gauge({
    name: 'nv_cpu_memory_total_bytes',
    help: 'Memory of the machine',
    registers,
    collect() {
      this.set(totalmem());
    },
  });
  new Gauge({
    name: 'nv_cpu_memory_used_bytes',
    help: 'Memory of the machine in use',
    registers,
    collect() {
      this.set(totalmem() - freemem());
    },
  });
  new Gauge({
    name: 'bonsai_cpu_budget_utilization',
    help: 'CPU time of the server since the last scrape over what its budget gives',
    registers,
    collect() {
      const { user, system } = process.cpuUsage(used);
      const nowNs = process.hrtime.bigint();
      const elapsedUs = Number(nowNs - lastNs) / 1000;
      this.set(elapsedUs > 0 ? (user + system) / elapsedUs / budgetCores : 0);
      used = process.cpuUsage();
      lastNs = nowNs;
    },
  });
}

function machineTimes(): { readonly busy: number; readonly total: number } {
  let busy = 0;
  let total = 0;
  for (const { times } of cpus()) {
    const all = times.user + times.nice + times.sys + times.idle + times.irq;
    total += all;
    busy += all - times.idle;
  }
  return { busy, total };
}

function* versionsOf(sources: MetricSources): Iterable<{ model: ServedModel; live: LiveVersion }> {
  for (const model of sources.models.models.values())
    for (const live of model.liveVersions) yield { model, live };
}

function labelsOf(model: ServedModel, live: LiveVersion): { model: string; version: string } {
  return { model: model.name, version: String(live.version) };
}

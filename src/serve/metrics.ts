import { Counter, Gauge, Registry } from 'prom-client';
import type { DataPlane } from './data-plane.ts';
import type { LiveVersion } from './live-version.ts';
import type { ModelRegistry } from './model-registry.ts';
import type { ServedModel } from './served-model.ts';
import { FAILURE_REASONS, type VersionStatistics } from './statistics.ts';

/** Where metrics read from. Nothing is counted here: every scrape writes the series anew, so unloaded versions leave none. */
export interface MetricSources {
  readonly models: ModelRegistry;
  readonly plane: DataPlane;
  readonly cpuBudgetCores: number;
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
  new Counter({
    name: 'bonsai_requests_total',
    help: 'Arrivals by what became of them at the door; their sum over outcomes is the demand',
    labelNames: ['model', 'outcome'],
    registers,
    collect() {
      this.reset();
      for (const model of sources.models.models.values()) {
        for (const [outcome, count] of Object.entries(model.arrivals))
          this.inc({ model: model.name, outcome }, count);
      }
    },
  });
  new Counter({
    name: 'bonsai_requests_refused_total',
    help: 'Requests refused at once (queue_full, deadline_exceeded) or after waiting in vain (expired)',
    labelNames: ['model', 'reason'],
    registers,
    collect() {
      this.reset();
      for (const model of sources.models.models.values()) {
        for (const [reason, count] of model.refusals) this.inc({ model: model.name, reason }, count);
      }
    },
  });
  new Gauge({
    name: 'bonsai_queue_length',
    help: 'Requests that wait for a slot',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      for (const model of sources.models.models.values())
        this.set({ model: model.name }, sources.plane.queued(model));
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
  new Gauge({
    name: 'bonsai_cpu_budget_cores',
    help: 'CPUs given to the server',
    registers,
    collect() {
      this.set(sources.cpuBudgetCores);
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

function* versionsOf(sources: MetricSources): Iterable<{ model: ServedModel; live: LiveVersion }> {
  for (const model of sources.models.models.values())
    for (const live of model.liveVersions) yield { model, live };
}

function labelsOf(model: ServedModel, live: LiveVersion): { model: string; version: string } {
  return { model: model.name, version: String(live.version) };
}

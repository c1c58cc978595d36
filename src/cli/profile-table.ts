import {
  MIN_STREAM_RATIO,
  type RelativeThroughput,
  relativeThroughputs,
  type Situation,
} from '../port/profile/relative-throughput.ts';
import { repeatDefaults } from '../port/profile/throughput.ts';
import { alignedTable } from '../report/table.ts';
import { frontierOf } from '../repository/frontier.ts';
import type { Profile, Target, TaskManifest } from '../repository/types.ts';

const BYTES_PER_MIB = 1024 * 1024;

/** What stands behind a figure whose repetitions did not agree. */
const NOISY_MARK = '*';

/** What stands behind a figure beside a model that did not get its share. */
const SHORT_MARK = '†';

/** A family's profiles on one target, and how throughput changes with CPUs and contest (thesis, Table 5.1). */
export function profileTables(manifest: TaskManifest, target: Target): string {
  const tables = [targetText(target), '', costTable(manifest, target.fingerprint)];
  const relative = relativeThroughputs(manifest.variants, target.fingerprint);
  if (relative !== undefined) {
    tables.push(
      `Throughput as a multiple of the one with ${cpusText(relative.base.cpus)} and nothing beside it: median (min - max)`,
      '',
      alignedTable([
        ['version', ...relative.situations.map(situationText)],
        ...relative.rows.map(({ version, cells }) => [String(version), ...cells.map(relativeText)]),
      ]),
    );
  }
  const text = tables.join('\n').trimEnd();
  const notes = [text];
  if (text.includes(NOISY_MARK)) notes.push(NOISE_NOTE);
  if (text.includes(SHORT_MARK)) notes.push(SHORT_NOTE);
  return notes.join('\n\n');
}

const NOISE_NOTE = `${NOISY_MARK} noisy: repetitions kept differing by more than ${repeatDefaults.spreadLimit}. Measure again when the machine is quiet (--again).`;
const SHORT_NOTE = `${SHORT_MARK} the other model was sent or answered less than ${percentText(MIN_STREAM_RATIO)} of its share.`;

/** A target for people: `AMD EPYC, 1 CPU, onnxruntime 1.30.0 (2ab0c3e8f4d1)`. */
export function targetText(target: Target): string {
  const { name, host, cpuModel, cpus, unpinned, runtime, runtimeVersion, fingerprint } = target;
  const machine = host === undefined ? cpuModel : name === undefined ? host : `${name} (${host})`;
  return `${machine}, ${cpusText(cpus)}${unpinned ? ' (not bound)' : ''}, ${runtime} ${runtimeVersion} (${fingerprint})`;
}

function costTable(manifest: TaskManifest, fingerprint: string): string {
  const frontier = new Set(
    frontierOf(manifest.variants, 'inverseThroughput', fingerprint).map(({ version }) => version),
  );
  return alignedTable([
    [
      ...['version', 'accuracy %', 'MMACs', 'parameters', 'latency ms', 'p95', 'p99', 'throughput /s'],
      ...['spread', 'unbatched /s', 'load ms', 'memory MiB', 'frontier'],
    ],
    ...manifest.variants.map(({ version, accuracy, macs, parameters, profiles }) => {
      const profile = profiles[fingerprint];
      return [
        String(version),
        (100 * accuracy.test).toFixed(2),
        (macs / 1e6).toFixed(1),
        String(parameters),
        ...(profile === undefined ? Array<string>(8).fill('-') : profileCells(profile)),
        frontier.has(version) ? 'yes' : '',
      ];
    }),
  ]);
}

function profileCells(profile: Profile): string[] {
  const { latencyMs, throughputRps, noisy, unbatchedRps, loadMs, memoryBytes } = profile;
  return [
    milliseconds(latencyMs.median),
    milliseconds(latencyMs.p95),
    milliseconds(latencyMs.p99),
    throughputRps.median.toFixed(1),
    `${(throughputRps.max / throughputRps.min).toFixed(2)}${noisy ? NOISY_MARK : ''}`,
    unbatchedRps?.median.toFixed(1) ?? '-',
    loadMs?.toFixed(0) ?? '-',
    memoryBytes === undefined ? '-' : (memoryBytes / BYTES_PER_MIB).toFixed(1),
  ];
}

function situationText({ cpus, contest }: Situation): string {
  if (contest === undefined) return cpusText(cpus);
  return `${cpusText(cpus)}, ${percentText(contest.share)} for ${contest.by.task}/${contest.by.version}`;
}

function relativeText(cell: RelativeThroughput | undefined): string {
  if (cell === undefined) return '-';
  const { median, low, high, noisy, short } = cell;
  return `${median.toFixed(2)} (${low.toFixed(2)} - ${high.toFixed(2)})${noisy ? NOISY_MARK : ''}${short ? SHORT_MARK : ''}`;
}

/** `0.25` → `25 %`. */
export function percentText(share: number): string {
  return `${Number((100 * share).toPrecision(3))} %`;
}

function cpusText(cpus: number): string {
  return `${cpus} CPU${cpus === 1 ? '' : 's'}`;
}

/** Three digits, for times from microseconds to minutes. */
function milliseconds(value: number | undefined): string {
  return value === undefined ? '-' : String(Number(value.toPrecision(3)));
}

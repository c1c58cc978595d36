import { boxFigure } from '../../report/box-figure.ts';
import { type ChartSeries, chart } from '../../report/chart.ts';
import type { Part } from '../../report/experiment-report.ts';
import type { CostMetric } from '../../repository/types.ts';
import { csv } from '../csv.ts';
import type { Drawn } from '../experiment.ts';
import { relativeSpread } from '../measuring/boxes.ts';
import { figure, percent } from '../wording.ts';
import type { FamilyMember, MetricsResults, MetricsTask, MetricsVersion } from './experiment.ts';
import { CPU_SHARES, THESIS_PRUNING } from './thesis.ts';

/** How a metric is drawn. */
const AXES: Readonly<
  Record<CostMetric, { readonly title: string; readonly x: (version: MetricsVersion) => number }>
> = {
  flops: { title: 'FLOPs of one inference (millions)', x: ({ macs }) => (2 * macs) / 1e6 },
  latency: { title: 'latency (ms)', x: ({ latency }) => latency.median },
  inverseThroughput: {
    title: 'inverse throughput (ms/inference)',
    x: ({ throughput }) => 1000 / throughput.median,
  },
};

const NAMES: Readonly<Record<CostMetric, string>> = {
  flops: 'FLOPs',
  latency: 'latency',
  inverseThroughput: 'inverse throughput',
};

/** By its inverse or not, a frontier is the same. */
const SHORT_NAMES: Readonly<Record<CostMetric, string>> = { ...NAMES, inverseThroughput: 'throughput' };

export function drawMetrics({ tasks, family, isFamilyAsItCame = false }: MetricsResults): Drawn {
  const [first, second] = tasks;
  const { task } = first!;
  // By what was measured here, which is not always the order of the profiles.
  const versions = first!.versions.toSorted((a, b) => a.throughput.median - b.throughput.median);
  return {
    parts: [
      ...stabilityParts(versions),
      ...(['flops', 'inverseThroughput', 'latency'] as const).map((metric, i) =>
        metricPart(task, versions, metric, `Fig. 5.7${'abc'[i]}`),
      ),
      ...(['flops', 'latency', 'inverseThroughput'] as const).map((metric, i) =>
        inThroughputPart(task, versions, metric, `Fig. 5.7${'def'[i]}`),
      ),
      cpuFigure(first!, 'Fig. 5.8'),
      ...(second === undefined ? [] : [cpuFigure(second, 'Fig. 5.9')]),
      versionsTable(versions),
    ],
    files: {
      'versions.csv': csv(
        ['task', 'version', 'description', 'accuracy', 'macs', 'throughput_rps', 'latency_ms', 'frontiers'],
        versions.map((each) => [
          ...[task, each.version, each.description, each.accuracy, each.macs],
          ...[each.throughput.median, each.latency.median, each.frontiers.join(';')],
        ]),
      ),
      'repetitions.csv': csv(
        ['task', 'version', 'metric', 'repetition', 'value'],
        versions.flatMap(({ version, throughputsRps, latenciesMs }) => [
          ...throughputsRps.map((value, i) => [task, version, 'throughput_rps', i + 1, value]),
          ...latenciesMs.map((value, i) => [task, version, 'latency_ms', i + 1, value]),
        ]),
      ),
      'cpu.csv': csv(
        ['task', 'version', 'maximum_rps', 'share', 'cpu_utilization'],
        tasks.flatMap((each) =>
          each.cpu.flatMap(({ version, maximumRps, shares }) =>
            shares.map(({ share, cpuUtilization }) => [
              each.task,
              version,
              maximumRps,
              share,
              cpuUtilization ?? undefined,
            ]),
          ),
        ),
      ),
    },
    headlines: [pruningHeadline(family, isFamilyAsItCame)],
  };
}

/** Figure 5.6: boxes over repetitions, both on logarithmic axes so that spreads compare. */
function stabilityParts(versions: readonly MetricsVersion[]): Part[] {
  const categories = versions.map(({ version }) => `V${version}`);
  const middle = (of: (version: MetricsVersion) => number) => {
    const sorted = versions.map(of).toSorted((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  };
  return [
    {
      kind: 'figure',
      caption: `Fig. 5.6a: maximal throughput over ${versions[0]?.throughputsRps.length} repetitions (1 CPU, nothing else served). The interquartile range is ${percent(
        middle(({ throughput }) => relativeSpread(throughput)),
        1,
      )} of the median, for the middle version.`,
      figure: boxFigure({
        id: 'metrics-boxes-throughput',
        title: 'Stability of maximal throughput',
        categories,
        categoryTitle: 'version, slowest first',
        y: { title: 'throughput (req/s, logarithmic)', kind: 'log' },
        series: [{ name: 'throughput', boxes: versions.map(({ throughput }) => throughput) }],
      }),
    },
    {
      kind: 'figure',
      caption: `Fig. 5.6b: latency of single inferences by ONNX Runtime, each repetition a mean of many. The interquartile range is ${percent(
        middle(({ latency }) => relativeSpread(latency)),
        1,
      )} of the median, for the middle version.`,
      figure: boxFigure({
        id: 'metrics-boxes-latency',
        title: 'Stability of latency',
        categories,
        categoryTitle: 'version, slowest first',
        y: { title: 'latency (ms, logarithmic)', kind: 'log' },
        series: [{ name: 'latency', boxes: versions.map(({ latency }) => latency) }],
      }),
    },
  ];
}

function metricPart(
  task: string,
  versions: readonly MetricsVersion[],
  metric: CostMetric,
  name: string,
): Part {
  const { title, x } = AXES[metric];
  return {
    kind: 'figure',
    caption: `${name}: ${task} by ${NAMES[metric]}; the line is the frontier by this metric, an outline marks pruned networks.`,
    figure: chart({
      id: `metrics-${metric}`,
      title: `Accuracy by ${NAMES[metric]}`,
      x: { title },
      y: { title: 'accuracy (%)' },
      series: [frontierLine(versions, metric, x), ...byBackbone(versions, x)],
    }),
  };
}

/** The frontier by a metric, drawn where it counts: a step to the left of a line is a version that is slower and no better. */
function inThroughputPart(
  task: string,
  versions: readonly MetricsVersion[],
  metric: CostMetric,
  name: string,
): Part {
  const x = ({ throughput }: MetricsVersion) => throughput.median;
  const missteps = misstepsOf(versions, metric);
  return {
    kind: 'figure',
    caption: `${name}: the frontier of ${task} by ${NAMES[metric]}, in throughput. ${missteps === 0 ? 'Every step to a less accurate version is a step to a faster one.' : `${missteps} of its steps ${missteps === 1 ? 'leads' : 'lead'} to a version that is less accurate and slower.`}`,
    figure: chart({
      id: `metrics-in-throughput-${metric}`,
      title: `Frontier by ${NAMES[metric]} in throughput`,
      height: 260,
      x: { title: 'throughput (inferences/s)' },
      y: { title: 'accuracy (%)' },
      series: [frontierLine(versions, metric, x), ...byBackbone(versions, x)],
    }),
  };
}

function frontierLine(
  versions: readonly MetricsVersion[],
  metric: CostMetric,
  x: (version: MetricsVersion) => number,
): ChartSeries {
  const points = onFrontier(versions, metric).map((each) => ({ x: x(each), y: 100 * each.accuracy }));
  return { name: 'frontier', kind: 'line', color: 'ink', points };
}

/** Most accurate first. */
function onFrontier(versions: readonly MetricsVersion[], metric: CostMetric): MetricsVersion[] {
  return versions
    .filter(({ frontiers }) => frontiers.includes(metric))
    .toSorted((a, b) => b.accuracy - a.accuracy);
}

/** Steps down a frontier that lose throughput. */
function misstepsOf(versions: readonly MetricsVersion[], metric: CostMetric): number {
  const chain = onFrontier(versions, metric);
  return chain.slice(1).filter(({ throughput }, i) => throughput.median <= chain[i]!.throughput.median)
    .length;
}

function byBackbone(
  versions: readonly MetricsVersion[],
  x: (version: MetricsVersion) => number,
): ChartSeries[] {
  const backbones = [...new Set(versions.map(({ backbone }) => backbone))];
  return backbones.map((backbone, color) => ({
    name: backbone,
    kind: 'dots',
    color,
    points: versions
      .filter((each) => each.backbone === backbone)
      .map((each) => ({
        x: x(each),
        y: 100 * each.accuracy,
        label: `V${each.version}`,
        isOutlined: each.isPruned,
      })),
  }));
}

function cpuFigure({ task, cpu: measured }: MetricsTask, name: string): Part {
  const cpu = measured.toSorted((a, b) => a.maximumRps - b.maximumRps);
  return {
    kind: 'figure',
    caption: `${name}: median CPU utilisation of ${task} at shares of each version's maximal throughput, slowest version first. Above the dashes of its share, a request costs more than its part of the maximum: connections, buffers, scheduling.`,
    figure: chart({
      id: `metrics-cpu-${task}`,
      title: `CPU utilisation at shares of the maximal throughput, ${task}`,
      x: { title: 'version', names: cpu.map(({ version }) => `V${version}`) },
      y: { title: 'median CPU utilisation (%)', domain: [0, 110] },
      rules: CPU_SHARES.map((share) => ({ y: 100 * share, name: '' })),
      series: CPU_SHARES.map((share) => ({
        name: `${percent(share, 0)} of max`,
        kind: 'dots-and-line',
        points: cpu.map(({ shares }, x) => ({
          x,
          y: 100 * (shares.find((each) => each.share === share)?.cpuUtilization ?? Number.NaN),
        })),
      })),
    }),
  };
}

function versionsTable(versions: readonly MetricsVersion[]): Part {
  return {
    kind: 'table',
    caption: 'Medians over repetitions, with least and greatest; on which frontiers a version is.',
    headings: ['version', 'what', 'accuracy', 'MFLOPs', 'latency ms', 'throughput /s', 'frontier by'],
    rows: versions.map((each) => [
      `V${each.version}`,
      each.description,
      percent(each.accuracy),
      figure((2 * each.macs) / 1e6, 4),
      `${figure(each.latency.median)} (${figure(each.latency.min)} – ${figure(each.latency.max)})`,
      `${figure(each.throughput.median)} (${figure(each.throughput.min)} – ${figure(each.throughput.max)})`,
      each.frontiers.map((metric) => SHORT_NAMES[metric]).join(', ') || 'none',
    ]),
  };
}

/** The greatest gain of throughput for no more accuracy than the thesis gave, from an unpruned network to a pruned one of its architecture. */
function pruningHeadline(
  family: readonly FamilyMember[],
  isFamilyAsItCame: boolean,
): Drawn['headlines'][number] {
  const thesis = THESIS_PRUNING;
  const limit = thesis.base.accuracy - thesis.pruned.accuracy;
  let best: { base: FamilyMember; small: FamilyMember; gain: number } | undefined;
  for (const base of family.filter(({ isPruned }) => !isPruned)) {
    for (const small of family.filter(({ isPruned, backbone }) => isPruned && backbone === base.backbone)) {
      if (base.accuracy - small.accuracy > limit) continue;
      const gain = small.throughputRps / base.throughputRps;
      if (best === undefined || gain > best.gain) best = { base, small, gain };
    }
  }
  return {
    what: 'throughput for accuracy, one network pruned',
    thesis: `${thesis.speedup} × for ${(100 * limit).toFixed(2)} points (DenseNet, CIFAR-10)`,
    ours:
      best === undefined
        ? 'no pruned version loses so little'
        : `${figure(best.gain)} × for ${(100 * (best.base.accuracy - best.small.accuracy)).toFixed(2)} points (V${best.base.version} → V${best.small.version}, ${best.small.description})`,
    note: `the greatest gain from an unpruned network to a pruned one of the same architecture, for no more points than the thesis gave${isFamilyAsItCame ? '; by the profiles that the family came with, since a quick run does not make all again' : ''}`,
  };
}

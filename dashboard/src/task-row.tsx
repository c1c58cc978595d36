import { useMemo } from 'preact/hooks';
import type { Frame, TaskOverview } from '../../src/serve/control/messages.ts';
import { ChangeButton } from './change-button.tsx';
import { Chart, type ChartProps, compact } from './chart.tsx';
import { count, ms, msPair, percent, perSecond } from './format.ts';
import { FrontierFigure } from './frontier-figure.tsx';
import { coloursOf, laneMiddle, laneOf, lanesOf, paintDots, paintLanes } from './lanes.ts';
import { stacked, violationsOf } from './machine-row.tsx';
import { palette } from './palette.ts';
import { decades, fromZero, logTicks } from './ranges.ts';
import { DOT_FIGURES, type Series } from './series.ts';

/** What all charts have in common: the time that they show, and how it is changed. */
export type TimeProps = Pick<ChartProps, 'fromMs' | 'toMs' | 'onSelect' | 'onZoom' | 'onShift' | 'themeKey'>;

const accent = () => palette().accent;
const text = () => palette().text;
const muted = () => palette().muted;
const refused = () => palette().refused;
const late = () => palette().late;

const HEIGHT = 156;

/** What one task does. */
export function TaskRow(props: {
  readonly task: TaskOverview;
  readonly frames: readonly Frame[];
  readonly series: Series;
  readonly time: TimeProps;
  /** Undefined: it cannot be changed from here. */
  readonly onChange: (() => void) | undefined;
}) {
  const { task, frames, series, time, onChange } = props;
  const own = series.tasks.get(task.task)!;
  const frame = frames.at(-1);
  const latest = frame?.tasks[task.task];
  const seconds = (frame?.spanMs ?? 1000) / 1000;
  // Colours follow the theme, too.
  const colours = useMemo(() => coloursOf(task), [task, time.themeKey]);
  const lanes = lanesOf(task, own, colours);
  const meanLane = own.accuracy.map((accuracy) => laneOf(accuracy, lanes));
  const accuracy = own.accuracy.at(-1);
  const best = Math.max(0, ...task.versions.map((version) => version.accuracy ?? 0));
  const violations = violationsOf(frames, task.task);
  const resident = Object.keys(latest?.resident ?? {}).map(Number);
  const latencies = [...own.dots.filter((_, i) => i % DOT_FIGURES === 1), ...own.p50Ms, ...own.p99Ms].filter(
    (value): value is number => value !== null && value > 0,
  );
  const objectives = own.sloMs.filter((sloMs) => sloMs !== null);
  const highest = Math.max(1, ...objectives, ...(latencies.length > 0 ? [maxOf(latencies)] : []));
  const lowest = latencies.length > 0 ? minOf(latencies) : highest / 100;
  const at = (index: number | undefined, values: readonly (number | null)[]) =>
    values[index ?? values.length - 1];
  const nameOf = (version: number) => `v${version}`;

  return (
    <section class="row" aria-labelledby={`task-${task.task}`} data-task={task.task}>
      <div class="panel">
        <h2 id={`task-${task.task}`}>
          {task.task}
          {task.pinnedVersion !== undefined && <span class="tag">pinned to v{task.pinnedVersion}</span>}
          <span class="grow" />
          {onChange !== undefined && <ChangeButton task={task.task} onClick={onChange} />}
        </h2>
        <dl class="numbers">
          <dt>Demand</dt>
          <dd data-value="demand">
            {perSecond(latest && latest.arrivals / seconds)} <span class="sub">/s</span>
          </dd>
          <dt>Violations, 1 min</dt>
          <dd class={violations !== undefined && violations > 0.01 ? 'bad' : ''}>{percent(violations, 2)}</dd>
          <dt>Median, 99th</dt>
          <dd data-value="latency">{msPair(latest?.p50Ms, latest?.p99Ms)}</dd>
          <dt>Objective{task.isSloByHand ? ' (by hand)' : ''}</dt>
          <dd data-value="slo">{task.sloMs === undefined ? 'none' : ms(task.sloMs)}</dd>
          <dt>Accuracy</dt>
          <dd
            data-value="accuracy"
            title={accuracy ? `${percent(accuracy / best)} of the best version's` : ''}
          >
            {percent(accuracy, 2)}
          </dd>
        </dl>
        {latest?.totals !== undefined && (
          <dl class="totals">
            <div>
              <dt title="Let in; those that were refused while they waited are among the refused, too.">
                accepted
              </dt>
              <dd data-value="accepted">{count(latest.totals.accepted)}</dd>
            </div>
            <div>
              <dt>refused</dt>
              <dd data-value="refused">{count(latest.totals.refused)}</dd>
            </div>
            <div>
              <dt>late</dt>
              <dd data-value="late">{count(latest.totals.late)}</dd>
            </div>
          </dl>
        )}
      </div>
      <Chart
        {...time}
        title="Demand"
        summary={`${task.task}: now ${perSecond(latest && latest.arrivals / seconds)} requests per second, ${perSecond(latest?.answered === undefined ? undefined : latest.answered / seconds)} answered`}
        height={HEIGHT}
        data={[
          series.x,
          own.answeredRps,
          stacked(own.refusedRps, own.lateRps),
          own.refusedRps,
          own.demandRps,
        ]}
        lines={[
          { label: 'answered', colour: accent, isFilled: true, width: 1 },
          { label: 'late', colour: late, isBar: true },
          { label: 'refused', colour: refused, isBar: true },
          { label: 'arrivals', colour: text },
        ]}
        range={fromZero(5)}
        legend={
          <>
            <span>
              <i class="line" style={{ color: 'var(--text)' }} /> arrivals /s
            </span>
            <span>
              <i style={{ color: 'var(--accent)' }} /> answered
            </span>
          </>
        }
        readout={(index) =>
          `${perSecond(at(index, own.demandRps))} · ${perSecond(at(index, own.answeredRps))}`
        }
      />
      <Chart
        {...time}
        title="Versions"
        summary={`${task.task}: in memory ${resident.map((version) => `version ${version}`).join(', ') || 'none'}; mean accuracy of the answers ${percent(accuracy, 2)}`}
        height={HEIGHT}
        data={[series.x, meanLane]}
        lines={[{ label: 'mean accuracy', colour: text, width: 1.5 }]}
        range={() => [0, Math.max(1, lanes.length)]}
        splits={() => lanes.map((_, index) => laneMiddle(index, lanes.length)).reverse()}
        ticks={(y) => {
          const lane = lanes[Math.round(lanes.length - y - 0.5)];
          return lane === undefined
            ? ''
            : lane.accuracy === undefined
              ? nameOf(lane.version)
              : `${nameOf(lane.version)} ${(100 * lane.accuracy).toFixed(1)}`;
        }}
        paintBelow={(u, context) => paintLanes(u, context, series, own, lanes)}
        legend={
          <span>
            <i class="line" style={{ color: 'var(--text)' }} /> mean, %
          </span>
        }
        readout={(index) => {
          const shares = own.shares[index ?? own.shares.length - 1];
          const answering = lanes.filter(({ version }) => (shares?.get(version) ?? 0) > 0);
          const parts = answering.map(
            ({ version }) => `${nameOf(version)} ${percent(shares?.get(version), 0)}`,
          );
          if (parts.length === 0) return '–';
          return `${parts.slice(0, 3).join(' ')}${parts.length > 3 ? ' …' : ''} · ${percent(at(index, own.accuracy), 2)}`;
        }}
      />
      <Chart
        {...time}
        title="Latency"
        summary={`${task.task}: now median ${ms(latest?.p50Ms)}, 99th percentile ${ms(latest?.p99Ms)}, objective ${task.sloMs === undefined ? 'none' : ms(task.sloMs)}`}
        height={HEIGHT}
        data={[series.x, own.p50Ms, own.p99Ms, own.sloMs]}
        lines={[
          { label: 'median', colour: muted, width: 1 },
          { label: '99th percentile', colour: text, width: 1 },
          { label: 'objective', colour: refused, width: 1, isDashed: true },
        ]}
        isLogarithmic
        range={() => decades(lowest, highest)}
        splits={logTicks}
        ticks={(value) => `${compact(value)} ms`}
        paintBelow={(u, context) => paintDots(u, context, own.dots, colours)}
        legend={
          <>
            <span>
              <i class="line" style={{ color: 'var(--text)' }} /> 99th
            </span>
            <span>
              <i class="line" style={{ color: 'var(--muted)' }} /> median
            </span>
            {objectives.length > 0 && (
              <span>
                <i class="dash bad" /> SLO
              </span>
            )}
          </>
        }
        readout={(index) => msPair(at(index, own.p50Ms), at(index, own.p99Ms))}
      />
      <FrontierFigure task={task} latest={latest} colours={colours} />
    </section>
  );
}

// Spreading thousands of values into Math.max would be slower, and fail for more.
function maxOf(values: readonly number[]): number {
  return values.reduce((a, b) => Math.max(a, b));
}

function minOf(values: readonly number[]): number {
  return values.reduce((a, b) => Math.min(a, b));
}

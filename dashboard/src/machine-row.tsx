import type { Frame, Overview } from '../../src/serve/control/messages.ts';
import { Chart } from './chart.tsx';
import { bytes, duration, percent, perSecond } from './format.ts';
import { palette } from './palette.ts';
import { fromZero } from './ranges.ts';
import type { Series } from './series.ts';
import type { TimeProps } from './task-row.tsx';

/** Violations are told of the last minute: a second is too short, an hour too long to see what is going on. */
const RECENT_MS = 60_000;

const accent = () => palette().accent;
const text = () => palette().text;
const refused = () => palette().refused;
const late = () => palette().late;

/** What the whole server does. */
export function MachineRow(props: {
  readonly overview: Overview;
  readonly frames: readonly Frame[];
  readonly series: Series;
  readonly time: TimeProps;
}) {
  const { overview, frames, series, time } = props;
  const latest = frames.at(-1);
  const recent = violationsOf(frames);
  const cpu = latest?.cpuUtilization;
  const queued = Object.values(latest?.tasks ?? {}).reduce((sum, task) => sum + (task.queued ?? 0), 0);
  const demand = demandOf(latest);
  const at = (index: number | undefined, values: readonly (number | null)[]) =>
    values[index ?? values.length - 1];
  return (
    <section class="row machine" aria-label="Server">
      <div class="panel">
        <h2>Server</h2>
        <dl class="numbers">
          <dt>CPU of {cores(overview.cpuBudgetCores)}</dt>
          <dd data-value="cpu">{percent(cpu, 0)}</dd>
        </dl>
        <div class="meter" aria-hidden="true">
          <div style={{ transform: `scaleX(${Math.min(1, cpu ?? 0)})` }} />
        </div>
        <dl class="numbers">
          <dt>Demand</dt>
          <dd data-value="demand">
            {perSecond(demand)} <span class="sub">/s</span>
          </dd>
          <dt>Violations, 1 min</dt>
          <dd class={recent !== undefined && recent > 0.01 ? 'bad' : ''} data-value="violations">
            {percent(recent, 2)}
          </dd>
          <dt>Waiting</dt>
          <dd data-value="queued">{queued}</dd>
          <dt>Memory</dt>
          <dd>{bytes(latest?.memoryBytes)}</dd>
          <dt>Up</dt>
          <dd>{latest === undefined ? '–' : duration(latest.atMs - overview.startedAtMs)}</dd>
        </dl>
      </div>
      <Chart
        {...time}
        title="CPU of budget"
        summary={`now ${percent(cpu, 0)}`}
        height={142}
        data={[series.x, series.cpuPercent]}
        lines={[{ label: 'CPU', colour: accent, isFilled: true }]}
        range={cpuRange}
        ticks={(value) => `${value} %`}
        readout={(index) => {
          const value = at(index, series.cpuPercent);
          return `${value === null || value === undefined ? '–' : `${value.toFixed(0)} %`}`;
        }}
      />
      <Chart
        {...time}
        title="Refused and late"
        summary={`in the last minute ${percent(recent, 2)} of all requests`}
        height={142}
        data={[series.x, stacked(series.refusedRps, series.lateRps), series.refusedRps]}
        lines={[
          { label: 'late', colour: late, isBar: true },
          { label: 'refused', colour: refused, isBar: true },
        ]}
        range={fromZero(4)}
        legend={
          <>
            <span>
              <i class="bad" /> refused /s
            </span>
            <span>
              <i class="warn" /> late /s
            </span>
          </>
        }
        readout={(index) =>
          `${perSecond(at(index, series.refusedRps))} · ${perSecond(at(index, series.lateRps))}`
        }
      />
      <Chart
        {...time}
        title="Waiting requests"
        summary={`now ${queued}`}
        height={142}
        data={[series.x, series.queued]}
        lines={[{ label: 'waiting', colour: text, isFilled: true }]}
        range={fromZero(4)}
        readout={(index) => `${at(index, series.queued) ?? '–'}`}
      />
    </section>
  );
}

/** All of the budget, and more in steps where a process takes more than it was given. */
function cpuRange(_min: number, max: number): [number, number] {
  return [0, Math.max(100, Math.ceil(((max ?? 0) - CPU_NOISE) / 25) * 25)];
}

/** Per cent above all of the budget that come of the clocks, not of the load. */
const CPU_NOISE = 4;

function cores(count: number | undefined): string {
  return count === undefined ? 'budget' : `${count} ${count === 1 ? 'core' : 'cores'}`;
}

/** Each value on top of the other's. */
export function stacked(
  below: readonly (number | null)[],
  above: readonly (number | null)[],
): (number | null)[] {
  return below.map((value, i) => (value === null ? null : value + (above[i] ?? 0)));
}

function demandOf(frame: Frame | undefined): number | undefined {
  if (frame === undefined) return undefined;
  return Object.values(frame.tasks).reduce((sum, task) => sum + task.arrivals, 0) / (frame.spanMs / 1000);
}

/** Of all arrivals of the last minute; undefined: there were none. */
export function violationsOf(frames: readonly Frame[], task?: string): number | undefined {
  const fromMs = (frames.at(-1)?.atMs ?? 0) - RECENT_MS;
  let violations = 0;
  let arrivals = 0;
  for (let i = frames.length - 1; i >= 0 && frames[i]!.atMs > fromMs; i--) {
    for (const [name, own] of Object.entries(frames[i]!.tasks)) {
      if (task !== undefined && name !== task) continue;
      arrivals += own.arrivals;
      violations += own.violations ?? (own.refused ?? 0) + (own.late ?? 0);
    }
  }
  return arrivals === 0 ? undefined : Math.min(1, violations / arrivals);
}

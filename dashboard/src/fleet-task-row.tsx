import { useMemo } from 'preact/hooks';
import type { FleetRecord, TaskRecord } from '../../src/orchestrate/fleet/record.ts';
import type { FleetFrame, TaskOverview } from '../../src/serve/control/messages.ts';
import { ChangeButton } from './change-button.tsx';
import { Chart } from './chart.tsx';
import { paintBands, paintStack, serverColour } from './fleet-paint.ts';
import { fleetTaskSeriesOf } from './fleet-series.ts';
import { ms, percent, perSecond } from './format.ts';
import { coloursOf } from './lanes.ts';
import { palette } from './palette.ts';
import { fromZero } from './ranges.ts';
import type { TimeProps } from './task-row.tsx';

const text = () => palette().text;
const muted = () => palette().muted;
const refused = () => palette().refused;

const HEIGHT = 156;

/** Steps in which the time that is drawn is moved on. */
const STEP_MS = 10_000;

/** More rows than this have no names beside them. */
const NAMED_ROWS = 11;

/** More areas than this are not named above their picture. */
const NAMED_AREAS = 5;

/** Letters of a name that fit beside a row. */
const NAME_LETTERS = 8;

/** What the whole fleet does of one task. */
export function FleetTaskRow(props: {
  readonly task: TaskOverview;
  readonly known: TaskRecord | undefined;
  readonly plan: FleetRecord['plan'];
  readonly frames: readonly FleetFrame[];
  /** Names of all servers, in the order of the fleet. */
  readonly order: readonly string[];
  /** Of these, the ones to be shown. */
  readonly shown: ReadonlySet<string>;
  readonly time: TimeProps;
  readonly onChange: () => void;
}) {
  const { task, known, plan, frames, order, shown, time, onChange } = props;
  const { fromMs, toMs } = time;
  const colours = useMemo(() => coloursOf(task), [task.versions, time.themeKey]);
  // The store changes in place. A little more than is shown, so that it is not made anew while nothing has come.
  const last = frames.at(-1)?.seq;
  const [stepFrom, stepTo] = [Math.floor(fromMs / STEP_MS) * STEP_MS, Math.ceil(toMs / STEP_MS) * STEP_MS];
  const series = useMemo(
    () => fleetTaskSeriesOf(frames, task.task, order, stepFrom, stepTo),
    [last, frames.length, order, stepFrom, stepTo],
  );
  const bands = series.bands.filter(({ server }) => shown.has(server));
  const places = useMemo(() => new Map(order.map((name, place) => [name, place])), [order]);
  const colourOf = (server: string | undefined) =>
    server === undefined ? palette().muted : serverColour(places.get(server) ?? order.length);
  const at = (index: number | undefined, values: readonly (number | null)[]) =>
    values[index ?? values.length - 1];
  const versionsAt = (index: number | undefined) => {
    const counts = new Map<number, number>();
    for (const { versions } of bands) {
      const version = at(index, versions);
      if (version !== null && version !== undefined) counts.set(version, (counts.get(version) ?? 0) + 1);
    }
    return [...counts].sort(([a], [b]) => a - b).map(([version, count]) => `v${version} on ${count}`);
  };
  const seen = [...new Set(bands.flatMap(({ versions }) => versions))]
    .filter((version) => version !== null)
    .sort((a, b) => a - b);
  const unplaced = plan.unplaced.find((entry) => entry.task === task.task);
  const lacks = (known?.hosts ?? 0) < (known?.replicas ?? 0);
  const accuracies = [...series.servedPercent, ...series.plannedPercent].filter((value) => value !== null);

  return (
    <section class="row fleet-task" aria-labelledby={`task-${task.task}`} data-task={task.task}>
      <div class="panel">
        <h3 id={`task-${task.task}`}>
          {task.task}
          {task.pinnedVersion !== undefined && <span class="tag">pinned to v{task.pinnedVersion}</span>}
          <span class="grow" />
          <ChangeButton task={task.task} onClick={onChange} />
        </h3>
        <dl class="numbers">
          <dt>Demand</dt>
          <dd data-value="demand">
            {perSecond(known?.arrivalRps)} <span class="sub">/s</span>
          </dd>
          <dt>Planned for</dt>
          <dd data-value="planned">
            {perSecond(known?.demandRps)} <span class="sub">/s</span>
          </dd>
          <dt>Unserved</dt>
          <dd data-value="unserved" class={(known?.unservedRps ?? 0) > 0 ? 'bad' : ''}>
            {perSecond(known?.unservedRps)} <span class="sub">/s</span>
          </dd>
          <dt>Servers of wanted</dt>
          <dd data-value="hosts" class={lacks ? 'bad' : ''}>
            {known?.hosts ?? '–'} of {known?.replicas ?? '–'}
          </dd>
          <dt>Accuracy served</dt>
          <dd data-value="accuracy">{percent(known?.servedAccuracy, 2)}</dd>
          <dt>Accuracy planned</dt>
          <dd data-value="planned-accuracy">{percent(known?.plannedAccuracy, 2)}</dd>
          <dt>Objective{task.isSloByHand ? ' (by hand)' : ''}</dt>
          <dd data-value="slo">{task.sloMs === undefined ? 'none' : ms(task.sloMs)}</dd>
        </dl>
        {unplaced !== undefined && <p class="bad">Not placed: {unplaced.reason}.</p>}
      </div>
      <Chart
        {...time}
        title="Demand by server"
        summary={`${task.task}: now ${perSecond(known?.arrivalRps)} requests per second, planned for ${perSecond(known?.demandRps)}, ${perSecond(known?.unservedRps)} more than the servers can carry`}
        height={HEIGHT}
        data={[series.x, series.demandRps, series.plannedRps, series.unservedRps]}
        lines={[
          { label: 'demand', colour: text, width: 1 },
          { label: 'planned for', colour: muted, width: 1, isDashed: true },
          { label: 'unserved', colour: refused, isBar: true },
        ]}
        range={fromZero(5)}
        paintBelow={(u, context) => paintStack(u, context, series, colourOf)}
        legend={
          series.stack.length > NAMED_AREAS ? (
            <span>{series.bands.length} servers</span>
          ) : (
            series.stack.map(({ server }) => (
              <span key={server ?? ''}>
                <i style={{ color: colourOf(server) }} /> {server ?? 'others'}
              </span>
            ))
          )
        }
        readout={(index) => `${perSecond(at(index, series.demandRps))}`}
      />
      <Chart
        {...time}
        title="Versions"
        summary={`${task.task}: ${versionsAt(undefined).join(', ') || 'served nowhere'}${versionsAt(undefined).length > 0 ? ' servers' : ''}`}
        height={HEIGHT}
        data={[series.x, series.x.map(() => null)]}
        lines={[{ label: 'rows', colour: muted, width: 0 }]}
        range={() => [0, Math.max(1, bands.length)]}
        splits={() =>
          bands.length > NAMED_ROWS ? [] : bands.map((_, row) => bands.length - row - 0.5).reverse()
        }
        ticks={(y) => shortened(bands[Math.round(bands.length - y - 0.5)]?.server ?? '')}
        paintBelow={(u, context) => paintBands(u, context, { ...series, bands }, colours)}
        legend={seen.map((version) => (
          <span key={version}>
            <i style={{ color: colours.get(version)?.() ?? 'var(--muted)' }} /> v{version}
          </span>
        ))}
        readout={(index) => versionsAt(index).slice(0, 4).join(', ') || '–'}
      />
      <Chart
        {...time}
        title="Accuracy"
        summary={`${task.task}: served ${percent(known?.servedAccuracy, 2)}, planned ${percent(known?.plannedAccuracy, 2)}`}
        height={HEIGHT}
        data={[series.x, series.servedPercent, series.plannedPercent]}
        lines={[
          { label: 'served', colour: text },
          { label: 'planned', colour: muted, width: 1, isDashed: true },
        ]}
        range={() => accuracyRange(accuracies)}
        ticks={(value) => `${Number(value.toFixed(2))} %`}
        legend={
          <>
            <span>
              <i class="line" style={{ color: 'var(--text)' }} /> served
            </span>
            <span>
              <i class="dash" style={{ color: 'var(--muted)' }} /> planned
            </span>
          </>
        }
        readout={(index) => {
          const value = at(index, series.servedPercent);
          return value === null || value === undefined ? '–' : `${value.toFixed(2)} %`;
        }}
      />
    </section>
  );
}

/** Around what there is, never so close that noise looks like a mountain. */
function accuracyRange(values: readonly number[]): [number, number] {
  if (values.length === 0) return [0, 100];
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const middle = (low + high) / 2;
  const half = Math.max(0.5, 0.65 * (high - low));
  return [Math.max(0, middle - half), Math.min(100.5, middle + half)];
}

function shortened(name: string): string {
  return name.length <= NAME_LETTERS ? name : `${name.slice(0, NAME_LETTERS - 1)}…`;
}

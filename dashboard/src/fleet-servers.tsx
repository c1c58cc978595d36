import { useState } from 'preact/hooks';
import type { ServerRecord } from '../../src/orchestrate/fleet/record.ts';
import { addressOf } from './address.ts';
import { HEALTHS, ORDERS, type Order, type ServerFilter, troubleOf } from './fleet-order.ts';
import { bytes, duration, percent, perSecond } from './format.ts';

/** Rows of a large fleet that are shown before somebody asks for all. */
const FIRST_ROWS = 16;

/** All servers of a fleet, or those that somebody looks for. */
export function FleetServers(props: {
  /** Those that pass the filter, in order. */
  readonly servers: readonly ServerRecord[];
  /** Of the whole fleet. */
  readonly total: number;
  readonly tasks: readonly string[];
  readonly filter: ServerFilter;
  readonly order: Order;
  readonly nowMs: number;
  readonly onFilter: (filter: ServerFilter) => void;
  readonly onOrder: (order: Order) => void;
  readonly onDrain: (server: string) => void;
}) {
  const { servers, total, tasks, filter, order, nowMs, onFilter, onOrder, onDrain } = props;
  const [showsAll, setShowsAll] = useState(false);
  const isLong = servers.length > FIRST_ROWS;
  const rows = isLong && !showsAll ? servers.slice(0, FIRST_ROWS) : servers;
  return (
    <section class="log servers" aria-labelledby="servers-title">
      <div class="log-head">
        <h2 id="servers-title" tabIndex={-1}>
          Servers
        </h2>
        <span class="count" role="status">
          {servers.length === total ? total : `${servers.length} of ${total}`}
        </span>
        <label>
          Name
          <input
            type="search"
            value={filter.name}
            onInput={(event) => onFilter({ ...filter, name: event.currentTarget.value })}
          />
        </label>
        <label>
          Task
          <select
            value={filter.task}
            onChange={(event) => onFilter({ ...filter, task: event.currentTarget.value })}
          >
            <option value="">any</option>
            {tasks.map((task) => (
              <option key={task}>{task}</option>
            ))}
          </select>
        </label>
        <label>
          Health
          <select
            value={filter.health}
            onChange={(event) =>
              // One of the options below.
              onFilter({ ...filter, health: event.currentTarget.value as ServerFilter['health'] })
            }
          >
            {HEALTHS.map((health) => (
              <option key={health}>{health}</option>
            ))}
          </select>
        </label>
        <label>
          Order
          <select value={order} onChange={(event) => onOrder(event.currentTarget.value as Order)}>
            {Object.entries(ORDERS).map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </select>
        </label>
      </div>
      {rows.length === 0 ? (
        <p class="empty">No server is like that.</p>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">Server</th>
              <th scope="col">CPU</th>
              <th scope="col">Memory</th>
              <th scope="col">Tasks</th>
              <th scope="col">Under way</th>
              <th scope="col">
                <span class="hidden">By hand</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map((server) => (
              <ServerRow
                key={server.name}
                server={server}
                nowMs={nowMs}
                onDrain={() => onDrain(server.name)}
              />
            ))}
          </tbody>
        </table>
      )}
      {isLong && (
        <button type="button" class="more" aria-expanded={showsAll} onClick={() => setShowsAll(!showsAll)}>
          {showsAll ? `Only the first ${FIRST_ROWS}` : `Show all ${servers.length}`}
        </button>
      )}
    </section>
  );
}

function ServerRow(props: {
  readonly server: ServerRecord;
  readonly nowMs: number;
  readonly onDrain: () => void;
}) {
  const { server, nowMs, onDrain } = props;
  const { name, health, healthSinceMs, trouble, isDrained, ownPolicy, cpus, utilization, change, tasks } =
    server;
  const since = healthSinceMs === undefined ? '' : ` ${duration(nowMs - healthSinceMs)}`;
  return (
    <tr data-server={name} data-health={health} class={troubleOf(server) >= 3 ? 'troubled' : ''}>
      <th scope="row">
        <a href={addressOf(name)}>{name}</a>
        <span class={`health ${health}`}>
          {health}
          {since}
        </span>
        {isDrained && <span class="tag">drained</span>}
        {ownPolicy !== undefined && <span class="sub"> own policy: {ownPolicy}</span>}
        {trouble !== undefined && <p class="bad">{trouble}</p>}
      </th>
      <td data-label="CPU">
        <span data-value="cpu">{percent(utilization, 0)}</span> of {Number(cpus.toFixed(2))}
        <Meter share={utilization} label={`CPU of ${name}`} />
      </td>
      <td data-label="Memory">
        {server.memoryBytes === undefined
          ? bytes(server.networkBytes)
          : `${bytes(server.networkBytes)} of ${bytes(server.memoryBytes)}`}
        {server.memoryBytes !== undefined && (
          <Meter
            share={(server.networkBytes ?? 0) / server.memoryBytes}
            label={`Memory for networks of ${name}`}
          />
        )}
        {server.residentBytes !== undefined && (
          <span class="sub"> process {bytes(server.residentBytes)}</span>
        )}
      </td>
      <td data-label="Tasks">
        {tasks.length === 0 ? (
          <span class="sub">none</span>
        ) : (
          <ul class="tasks">
            {tasks.map(({ task, version, plannedVersion, weight, demandRps }) => (
              <li key={task} data-task={task}>
                <b>{task}</b> {versionsText(version, plannedVersion)}
                <span class="sub">
                  {' '}
                  · weight <span data-value="weight">{weight}</span> ·{' '}
                  <span data-value="demand">{perSecond(demandRps)}</span> /s
                </span>
              </li>
            ))}
          </ul>
        )}
      </td>
      <td data-label="Under way">{change ?? <span class="sub">–</span>}</td>
      <td>
        <button
          type="button"
          class="small"
          aria-haspopup="dialog"
          aria-label={`${isDrained ? 'Take back' : 'Drain'} ${name}`}
          onClick={onDrain}
        >
          {isDrained ? 'Take back' : 'Drain'}
        </button>
      </td>
    </tr>
  );
}

function Meter({ share, label }: { readonly share: number | undefined; readonly label: string }) {
  if (share === undefined) return null;
  return <meter class="meter" aria-label={label} value={Math.min(1, Math.max(0, share))} high={0.9} />;
}

/** v3; v3 → v2: to be switched; v3 leaves; v2 comes */
function versionsText(version: number | undefined, planned: number | undefined): string {
  if (version === undefined) return `v${planned} comes`;
  if (planned === undefined) return `v${version} leaves`;
  return version === planned ? `v${version}` : `v${version} → v${planned}`;
}

import { useState } from 'preact/hooks';
import type { FleetDecision } from '../../src/orchestrate/fleet/record.ts';
import type { FleetLine } from './fleet-store.ts';
import { clock } from './format.ts';

/** Rows drawn; further back by moving the time that is shown. */
const MAX_ROWS = 200;

const KINDS: Readonly<Record<FleetDecision['kind'], string>> = {
  plan: 'plan',
  begin: 'begin',
  done: 'done',
  failed: 'failed',
  server: 'server',
  balancer: 'balancer',
  members: 'members',
  override: 'by hand',
};

/** What was decided for the fleet and why, the newest first. */
export function FleetLog(props: { readonly lines: readonly FleetLine[]; readonly untilMs: number }) {
  const [kind, setKind] = useState('');
  const rows: FleetLine[] = [];
  for (let i = props.lines.length - 1; i >= 0 && rows.length < MAX_ROWS; i--) {
    const line = props.lines[i]!;
    if (line.atMs <= props.untilMs && (kind === '' || line.kind === kind)) rows.push(line);
  }
  return (
    <section class="log fleet-log" aria-labelledby="log-title">
      <div class="log-head">
        <h2 id="log-title">Decisions</h2>
        <label>
          Kind
          <select value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
            <option value="">all</option>
            {Object.entries(KINDS).map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </select>
        </label>
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard. */}
      <section class="log-scroll" tabIndex={0} aria-label="List of decisions">
        {rows.length === 0 ? (
          <p class="empty">Nothing was decided in this time.</p>
        ) : (
          <table>
            <thead>
              <tr>
                <th scope="col">Time</th>
                <th scope="col">Kind</th>
                <th scope="col">What and why</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((line) => (
                <tr key={line.key} data-kind={line.kind}>
                  <td class="time">
                    <time dateTime={new Date(line.atMs).toISOString()}>{clock(line.atMs)}</time>
                  </td>
                  <td class={line.kind === 'failed' ? 'kind bad' : 'kind'}>
                    {line.kind === 'override' ? <span class="tag">by hand</span> : KINDS[line.kind]}
                  </td>
                  <td>{line.text}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </section>
    </section>
  );
}

import { useState } from 'preact/hooks';
import { clock } from './format.ts';
import type { LogLine } from './store.ts';

/** Rows drawn; further back by moving the time that is shown. */
const MAX_ROWS = 200;

/** What was decided and why, the newest first. */
export function DecisionLog(props: { readonly lines: readonly LogLine[]; readonly untilMs: number }) {
  const [showsAll, setShowsAll] = useState(false);
  const rows: LogLine[] = [];
  for (let i = props.lines.length - 1; i >= 0 && rows.length < MAX_ROWS; i--) {
    const line = props.lines[i]!;
    if (line.atMs > props.untilMs) continue;
    // A notice is news when it begins.
    const isNotice = line.notice !== undefined && props.lines[i - 1]?.notice === undefined;
    if (showsAll || line.changes.length > 0 || isNotice) rows.push(line);
  }
  return (
    <section class="log" aria-labelledby="log-title">
      <div class="log-head">
        <h2 id="log-title">Decisions</h2>
        <label>
          <input
            type="checkbox"
            checked={showsAll}
            onChange={(event) => setShowsAll(event.currentTarget.checked)}
          />
          also those that change nothing
        </label>
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard. */}
      <section class="log-scroll" tabIndex={0} aria-label="List of decisions">
        {rows.length === 0 ? (
          <p class="empty">
            {props.lines.length === 0
              ? 'No policy decides here, and nobody has changed anything.'
              : 'Nothing was changed in this time.'}
          </p>
        ) : (
          <table>
            <thead>
              <tr>
                <th scope="col">Time</th>
                <th scope="col">Change</th>
                <th scope="col">Why</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((line) => (
                <tr key={line.key}>
                  <td class="time">
                    <time dateTime={new Date(line.atMs).toISOString()}>{clock(line.atMs)}</time>
                  </td>
                  <td class="changes">
                    {line.kind === 'override' && <span class="tag">by hand</span>}{' '}
                    {line.changes.length === 0 ? 'stay' : line.changes.join('; ')}
                  </td>
                  <td>
                    {line.reason}
                    {line.notice !== undefined && <div class="notice">{line.notice}</div>}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </section>
    </section>
  );
}

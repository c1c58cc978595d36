import { useEffect, useMemo, useReducer, useState } from 'preact/hooks';
import { Announcer } from './announcer.tsx';
import { ChangeDialog } from './change-dialog.tsx';
import { DecisionLog } from './decision-log.tsx';
import { KeysHelp } from './keys-help.tsx';
import { Locked } from './locked.tsx';
import { MachineRow } from './machine-row.tsx';
import { seriesOf } from './series.ts';
import type { Store } from './store.ts';
import { TaskRow } from './task-row.tsx';
import { useTimeWindow } from './time-window.ts';
import { Toolbar } from './toolbar.tsx';
import { useThemeKey } from './use-theme-key.ts';

/** What one server does. */
export function ServerPage(props: {
  readonly store: Store;
  /** To another server, by its name. */
  readonly onServer: (server: string) => void;
}) {
  const { store, onServer } = props;
  const [tick, redraw] = useReducer((count: number) => count + 1, 0);
  const [changing, setChanging] = useState<string>();
  const { theme, themeKey, choose } = useThemeKey();

  useEffect(() => store.subscribe(() => redraw(undefined)), [store]);

  const { window, fromMs, toMs, time, follow, onKey, ...moves } = useTimeWindow(store.now, themeKey);
  useEffect(() => store.want(fromMs), [store, Math.floor(fromMs / 60_000)]);

  const tasks = store.overview?.tasks ?? [];
  // The store changes in place, and counts its changes.
  const series = useMemo(() => seriesOf(store.frames, tasks, fromMs, toMs), [tick, fromMs, toMs]);

  const { overview, connection } = store;
  const task = tasks.find((known) => known.task === changing);
  return (
    <>
      {overview !== undefined && (
        <a class="skip" href="#charts">
          To the charts
        </a>
      )}
      <Toolbar
        where={
          overview !== undefined && (
            <>
              {overview.isFleet && (
                <>
                  <a href="./">‹ Fleet</a>{' '}
                </>
              )}
              {overview.servers.length > 1 ? (
                <select
                  aria-label="Server"
                  value={overview.server}
                  onChange={(event) => onServer(event.currentTarget.value)}
                >
                  {overview.servers.map((server) => (
                    <option key={server}>{server}</option>
                  ))}
                </select>
              ) : (
                <b>{overview.server}</b>
              )}{' '}
              · policy <b>{overview.policy ?? 'none'}</b>
            </>
          )
        }
        connection={connection}
        window={window}
        theme={theme}
        onTheme={choose}
        {...moves}
      />
      {(connection === 'locked' || connection === 'refused') && <Locked feed={store} />}
      {overview === undefined ? (
        <main>
          {connection !== 'locked' && connection !== 'refused' && (
            <p class="empty">
              {connection === 'lost' ? 'The server cannot be reached; trying on.' : 'Asking the server…'}
            </p>
          )}
        </main>
      ) : (
        <main class={connection === 'lost' ? 'stale' : undefined}>
          <section
            id="charts"
            class="rows"
            // biome-ignore lint/a11y/noNoninteractiveTabindex: its keys work while it has the focus, and only then.
            tabIndex={0}
            aria-label="Charts"
            aria-describedby="keys"
            onKeyDown={onKey}
            onDblClick={follow}
          >
            <MachineRow overview={overview} frames={store.frames} series={series} time={time} />
            {tasks.map((entry) => (
              <TaskRow
                key={entry.task}
                task={entry}
                frames={store.frames}
                series={series}
                time={time}
                onChange={overview.overrides === 'none' ? undefined : () => setChanging(entry.task)}
              />
            ))}
            {tasks.length === 0 && <p class="empty">No task is served here yet.</p>}
          </section>
          <DecisionLog lines={store.log} untilMs={window.endMs ?? Number.POSITIVE_INFINITY} />
        </main>
      )}
      <KeysHelp />
      <Announcer
        latest={() => store.log.at(-1)?.key ?? -1}
        sentenceSince={(last) =>
          store.log.flatMap(({ key, changes }) => (key > last ? changes : [])).join(', ')
        }
      />
      {overview !== undefined && task !== undefined && (
        <ChangeDialog
          key={task.task}
          task={task}
          policy={overview.policy}
          server={overview.server}
          needsToken={overview.overrides === 'token'}
          lasting={
            overview.isFleet ? 'It counts on all servers of the fleet, until it is taken back.' : undefined
          }
          onClose={() => setChanging(undefined)}
        />
      )}
    </>
  );
}

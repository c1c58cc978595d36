import { useEffect, useMemo, useReducer, useState } from 'preact/hooks';
import { Announcer } from './announcer.tsx';
import { ChangeDialog } from './change-dialog.tsx';
import { DrainDialog } from './drain-dialog.tsx';
import { FleetLog } from './fleet-log.tsx';
import { NO_FILTER, type Order, type ServerFilter, shownServers } from './fleet-order.ts';
import { FleetServers } from './fleet-servers.tsx';
import type { FleetStore } from './fleet-store.ts';
import { FleetSummary, holderText } from './fleet-summary.tsx';
import { FleetTaskRow } from './fleet-task-row.tsx';
import { KeysHelp } from './keys-help.tsx';
import { Locked } from './locked.tsx';
import { useTimeWindow } from './time-window.ts';
import { Toolbar } from './toolbar.tsx';
import { useThemeKey } from './use-theme-key.ts';

/** What all servers of a fleet do together. */
export function FleetPage({ store }: { readonly store: FleetStore }) {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const [changing, setChanging] = useState<string>();
  const [draining, setDraining] = useState<string>();
  const [filter, setFilter] = useState<ServerFilter>(NO_FILTER);
  const [order, setOrder] = useState<Order>('trouble');
  const { theme, themeKey, choose } = useThemeKey();

  useEffect(() => store.subscribe(() => redraw(undefined)), [store]);

  const nowMs = store.now;
  const { window, fromMs, time, follow, onKey, ...moves } = useTimeWindow(nowMs, themeKey);
  useEffect(() => store.want(fromMs), [store, Math.floor(fromMs / 60_000)]);

  const { fleet, connection } = store;
  const state = fleet?.state;
  const servers = state?.servers ?? [];
  const shown = shownServers(servers, filter, order);
  const shownNames = new Set(shown.map(({ name }) => name));
  const names = servers.map(({ name }) => name);
  const key = names.join('\n');
  const namesInOrder = useMemo(() => names, [key]);
  const task = fleet?.tasks.find((known) => known.task === changing);
  const server = servers.find(({ name }) => name === draining);
  const needsToken = fleet?.overrides === 'token';
  return (
    <>
      {state !== undefined && (
        <>
          <a class="skip" href="#servers-title">
            To the servers
          </a>
          <a class="skip" href="#charts">
            To the charts
          </a>
        </>
      )}
      <Toolbar
        where={
          fleet !== undefined && (
            <>
              <b>Fleet</b> · policy <b>{fleet.policy}</b>
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
      {fleet !== undefined && !fleet.orchestrator.isActive && (
        <p class="banner waiting" role="status">
          This orchestrator waits: {holderText(fleet.orchestrator, nowMs)}{' '}
          {state === undefined
            ? 'Nothing is known of the fleet yet.'
            : 'What is shown is what that one writes down; what you set by hand counts there, too.'}
        </p>
      )}
      <main class={connection === 'lost' ? 'stale' : undefined}>
        {fleet === undefined || state === undefined ? (
          <p class="empty">
            {connection === 'lost'
              ? 'The orchestrator cannot be reached; trying on.'
              : fleet === undefined
                ? 'Asking the orchestrator…'
                : 'Nobody has looked at the fleet yet.'}
          </p>
        ) : (
          <>
            <FleetSummary state={state} orchestrator={fleet.orchestrator} nowMs={nowMs} />
            <FleetServers
              servers={shown}
              total={servers.length}
              tasks={fleet.tasks.map((known) => known.task)}
              filter={filter}
              order={order}
              nowMs={nowMs}
              onFilter={setFilter}
              onOrder={setOrder}
              onDrain={setDraining}
            />
            <section
              id="charts"
              class="rows"
              // biome-ignore lint/a11y/noNoninteractiveTabindex: its keys work while it has the focus, and only then.
              tabIndex={0}
              aria-labelledby="tasks-title"
              aria-describedby="keys"
              onKeyDown={onKey}
              onDblClick={follow}
            >
              <h2 id="tasks-title" class="hidden">
                Tasks
              </h2>
              {fleet.tasks.map((entry) => (
                <FleetTaskRow
                  key={entry.task}
                  task={entry}
                  known={state.tasks.find((known) => known.task === entry.task)}
                  plan={state.plan}
                  frames={store.frames}
                  order={namesInOrder}
                  shown={shownNames}
                  time={time}
                  onChange={() => setChanging(entry.task)}
                />
              ))}
            </section>
            <FleetLog lines={store.log} untilMs={window.endMs ?? Number.POSITIVE_INFINITY} />
          </>
        )}
      </main>
      <KeysHelp />
      <Announcer
        latest={() => store.log.at(-1)?.key ?? -1}
        sentenceSince={(last) =>
          store.log
            .filter(({ key: own, kind }) => own > last && kind !== 'plan')
            .map(({ text }) => text)
            .join(' ')
        }
      />
      {fleet !== undefined && task !== undefined && (
        <ChangeDialog
          key={task.task}
          task={task}
          policy={fleet.policy}
          needsToken={needsToken}
          lasting="It counts on all servers of the fleet, until it is taken back."
          onClose={() => setChanging(undefined)}
        />
      )}
      {server !== undefined && (
        <DrainDialog
          key={server.name}
          server={server}
          needsToken={needsToken}
          onClose={() => setDraining(undefined)}
        />
      )}
    </>
  );
}

import { useEffect, useMemo, useReducer, useState } from 'preact/hooks';
import { storeToken } from './api.ts';
import { ChangeDialog } from './change-dialog.tsx';
import { DecisionLog } from './decision-log.tsx';
import { MachineRow } from './machine-row.tsx';
import { forgetPalette } from './palette.ts';
import { seriesOf } from './series.ts';
import type { Store } from './store.ts';
import { TaskRow, type TimeProps } from './task-row.tsx';
import { storedTheme, type Theme, useTheme } from './theme.ts';
import { Toolbar } from './toolbar.tsx';
import { between, DEFAULT_SPAN_MS, moved, RANGES, type TimeWindow, zoomed } from './window.ts';

export function App({ store }: { readonly store: Store }) {
  const [tick, redraw] = useReducer((count: number) => count + 1, 0);
  const [window, setWindow] = useState<TimeWindow>({ spanMs: DEFAULT_SPAN_MS, endMs: undefined });
  const [theme, setTheme] = useState<Theme>(storedTheme);
  const [changing, setChanging] = useState<string>();
  const systemTheme = useSystemTheme();

  useEffect(() => store.subscribe(() => redraw(undefined)), [store]);

  const nowMs = store.now;
  const toMs = window.endMs ?? nowMs;
  const fromMs = toMs - window.spanMs;
  useEffect(() => store.want(fromMs), [store, Math.floor(fromMs / 60_000)]);

  const tasks = store.overview?.tasks ?? [];
  // The store changes in place, and counts its changes.
  const series = useMemo(() => seriesOf(store.frames, tasks, fromMs, toMs), [tick, fromMs, toMs]);
  const time: TimeProps = {
    fromMs,
    toMs,
    themeKey: `${theme} ${systemTheme}`,
    onSelect: (from, to) => setWindow(between(from, to, nowMs)),
    onZoom: (factor, aroundMs) => setWindow(zoomed(window, factor, nowMs, aroundMs)),
  };
  const pause = () => setWindow({ ...window, endMs: window.endMs === undefined ? nowMs : undefined });
  const move = (direction: 1 | -1) => {
    const next = moved(window, direction, nowMs);
    setWindow(next.endMs === nowMs ? { ...next, endMs: undefined } : next);
  };
  const zoom = (factor: number) => setWindow(zoomed(window, factor, nowMs));

  const onKey = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if ((event.target as Element).closest('button, select, input, dialog, .log-scroll') !== null) return;
    const range = RANGES[Number(event.key) - 1];
    if (event.key === ' ') pause();
    else if (event.key === 'ArrowLeft') move(-1);
    else if (event.key === 'ArrowRight') move(1);
    else if (event.key === '+' || event.key === '=') zoom(0.5);
    else if (event.key === '-') zoom(2);
    else if (event.key === 'Escape') setWindow({ spanMs: DEFAULT_SPAN_MS, endMs: undefined });
    else if (range !== undefined) setWindow({ spanMs: range.spanMs, endMs: window.endMs });
    else return;
    event.preventDefault();
  };

  const { overview, connection } = store;
  const task = tasks.find((known) => known.task === changing);
  return (
    <>
      <a class="skip" href="#charts">
        To the charts
      </a>
      <Toolbar
        overview={overview}
        connection={connection}
        window={window}
        theme={theme}
        onServer={(server) => store.watch(server)}
        onRange={(spanMs) => setWindow({ spanMs, endMs: window.endMs })}
        onPause={pause}
        onMove={move}
        onZoom={zoom}
        onTheme={(next) => {
          useTheme(next);
          setTheme(next);
        }}
      />
      {(connection === 'locked' || connection === 'refused') && <Locked store={store} />}
      {overview === undefined ? (
        <main>
          <p class="empty">
            {connection === 'lost' ? 'The server cannot be reached; trying on.' : 'Asking the server…'}
          </p>
        </main>
      ) : (
        <main>
          <section
            id="charts"
            class="rows"
            // biome-ignore lint/a11y/noNoninteractiveTabindex: its keys work while it has the focus, and only then.
            tabIndex={0}
            aria-label="Charts"
            aria-describedby="keys"
            onKeyDown={onKey}
            onDblClick={() => setWindow({ spanMs: DEFAULT_SPAN_MS, endMs: undefined })}
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
          </section>
          <DecisionLog lines={store.log} untilMs={window.endMs ?? Number.POSITIVE_INFINITY} />
        </main>
      )}
      <footer id="keys">
        Drag over a chart to zoom, double-click to follow again. In the charts: <kbd>←</kbd> <kbd>→</kbd>{' '}
        move, <kbd>+</kbd> <kbd>−</kbd> zoom, <kbd>Space</kbd> pauses, <kbd>1</kbd>–<kbd>4</kbd> choose the
        time shown, <kbd>Esc</kbd> follows again.
      </footer>
      <Announcer store={store} />
      {overview !== undefined && task !== undefined && (
        <ChangeDialog
          key={task.task}
          overview={overview}
          task={task}
          onClose={() => setChanging(undefined)}
        />
      )}
    </>
  );
}

/** Asks for the token without which the server shows nothing. */
function Locked({ store }: { readonly store: Store }) {
  const [token, setToken] = useState('');
  return (
    <form
      class="banner"
      onSubmit={(event) => {
        event.preventDefault();
        storeToken(token);
        store.retry();
      }}
    >
      <span role="alert">{store.problem}</span>
      {store.connection === 'locked' && (
        <>
          <label for="read-token">Token</label>
          <input
            id="read-token"
            type="password"
            autocomplete="off"
            value={token}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
          <button type="submit">Show</button>
        </>
      )}
    </form>
  );
}

/** Between two sentences to those who listen. */
const ANNOUNCE_MS = 5_000;

/** Tells those who cannot see it what is changed, one sentence at a time. */
function Announcer({ store }: { readonly store: Store }) {
  const [sentence, setSentence] = useState('');
  useEffect(() => {
    let lastKey = store.log.at(-1)?.key ?? -1;
    const timer = setInterval(() => {
      const news = store.log.filter(({ key, changes }) => key > lastKey && changes.length > 0);
      lastKey = store.log.at(-1)?.key ?? lastKey;
      if (news.length > 0) setSentence(news.flatMap(({ changes }) => changes).join(', '));
    }, ANNOUNCE_MS);
    return () => clearInterval(timer);
  }, [store]);
  return (
    <div class="hidden" role="log" aria-live="polite" aria-label="Changes">
      {sentence}
    </div>
  );
}

/** Whether the system prefers dark, as it changes. */
function useSystemTheme(): 'dark' | 'light' {
  const query = useMemo(() => matchMedia('(prefers-color-scheme: dark)'), []);
  const [isDark, setDark] = useState(query.matches);
  useEffect(() => {
    const onChange = () => {
      forgetPalette();
      setDark(query.matches);
    };
    query.addEventListener('change', onChange);
    return () => query.removeEventListener('change', onChange);
  }, [query]);
  return isDark ? 'dark' : 'light';
}

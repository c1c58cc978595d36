import type { Overview } from '../../src/serve/control/messages.ts';
import { CursorTime } from './cursor-time.tsx';
import type { Connection } from './store.ts';
import type { Theme } from './theme.ts';
import { RANGES, type TimeWindow } from './window.ts';

const STATES: Readonly<Record<Connection | 'paused', string>> = {
  connecting: 'Connecting',
  live: 'Live',
  paused: 'Paused',
  lost: 'Reconnecting',
  locked: 'Token needed',
  refused: 'Refused',
};

export function Toolbar(props: {
  readonly overview: Overview | undefined;
  readonly connection: Connection;
  readonly window: TimeWindow;
  readonly theme: Theme;
  readonly onServer: (server: string) => void;
  readonly onRange: (spanMs: number) => void;
  readonly onPause: () => void;
  readonly onMove: (direction: 1 | -1) => void;
  readonly onZoom: (factor: number) => void;
  readonly onTheme: (theme: Theme) => void;
}) {
  const { overview, connection, window } = props;
  const isPaused = window.endMs !== undefined;
  const state = connection === 'live' && isPaused ? 'paused' : connection;
  return (
    <header class="bar">
      <h1 class="brand">
        <img src="./favicon.svg" alt="" /> Bonsai
      </h1>
      {overview !== undefined && (
        <span class="where">
          {overview.servers.length > 1 ? (
            <select
              aria-label="Server"
              value={overview.server}
              onChange={(event) => props.onServer(event.currentTarget.value)}
            >
              {overview.servers.map((server) => (
                <option key={server}>{server}</option>
              ))}
            </select>
          ) : (
            <b>{overview.server}</b>
          )}{' '}
          · policy <b>{overview.policy ?? 'none'}</b>
        </span>
      )}
      <span class={`state ${state}`} role="status">
        {STATES[state]}
      </span>
      <CursorTime />
      <span class="spacer" />
      <fieldset class="group" aria-label="Time shown">
        {RANGES.map(({ label, spanMs }) => (
          <button
            key={label}
            type="button"
            aria-pressed={window.spanMs === spanMs}
            onClick={() => props.onRange(spanMs)}
          >
            {label}
          </button>
        ))}
      </fieldset>
      <span class="group">
        <button type="button" aria-label="Earlier" title="Earlier (←)" onClick={() => props.onMove(-1)}>
          ‹
        </button>
        <button type="button" aria-label="Zoom out" title="Zoom out (−)" onClick={() => props.onZoom(2)}>
          −
        </button>
        <button type="button" aria-label="Zoom in" title="Zoom in (+)" onClick={() => props.onZoom(0.5)}>
          +
        </button>
        <button type="button" aria-label="Later" title="Later (→)" onClick={() => props.onMove(1)}>
          ›
        </button>
      </span>
      <button type="button" aria-pressed={isPaused} onClick={props.onPause} title="Space">
        {isPaused ? 'Go on' : 'Pause'}
      </button>
      <select
        aria-label="Colours"
        value={props.theme}
        onChange={(event) => props.onTheme(event.currentTarget.value as Theme)}
      >
        <option value="auto">Auto</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
    </header>
  );
}

import { CursorTime } from './cursor-time.tsx';
import type { Connection } from './feed.ts';
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
  /** What is shown: a server, or a fleet. */
  readonly where: preact.ComponentChildren;
  readonly connection: Connection;
  readonly window: TimeWindow;
  readonly theme: Theme;
  readonly setRange: (spanMs: number) => void;
  readonly pause: () => void;
  readonly move: (direction: 1 | -1) => void;
  readonly zoom: (factor: number) => void;
  readonly onTheme: (theme: Theme) => void;
}) {
  const { connection, window } = props;
  const isPaused = window.endMs !== undefined;
  const state = connection === 'live' && isPaused ? 'paused' : connection;
  return (
    <header class="bar">
      <h1 class="brand">
        <img src="./favicon.svg" alt="" /> Bonsai
      </h1>
      <span class="where">{props.where}</span>
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
            onClick={() => props.setRange(spanMs)}
          >
            {label}
          </button>
        ))}
      </fieldset>
      <span class="group">
        <button type="button" aria-label="Earlier" title="Earlier (←)" onClick={() => props.move(-1)}>
          ‹
        </button>
        <button type="button" aria-label="Zoom out" title="Zoom out (−)" onClick={() => props.zoom(2)}>
          −
        </button>
        <button type="button" aria-label="Zoom in" title="Zoom in (+)" onClick={() => props.zoom(0.5)}>
          +
        </button>
        <button type="button" aria-label="Later" title="Later (→)" onClick={() => props.move(1)}>
          ›
        </button>
      </span>
      <button type="button" aria-pressed={isPaused} onClick={props.pause} title="Space">
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

import { clock } from './format.ts';

let holder: HTMLElement | null = null;

/** Tells the time under the cursor, which all charts have in common. */
export function CursorTime() {
  return (
    <span
      class="cursor-time"
      aria-hidden="true"
      ref={(element) => {
        holder = element;
      }}
    />
  );
}

/** Past the drawing of the page, which would be far too slow for a cursor. @param seconds since the epoch; none: no cursor */
export function showCursorTime(seconds: number | null | undefined): void {
  if (holder !== null)
    holder.textContent = seconds === null || seconds === undefined ? '' : clock(1000 * seconds);
}

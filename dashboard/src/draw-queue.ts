/**
 * Work of a frame of the screen, in ms: with what comes before and after it, less than the 16 ms that a frame has at 60
 * a second.
 */
const BUDGET_MS = 5;

const pending = new Map<object, () => void>();
let isScheduled = false;

/**
 * Draws with the next frame of the screen, or one of those after it: a dozen charts at once would take several frames,
 * over which nothing moves. Whoever asks again before it was drawn is drawn once, as it is then.
 */
export function drawSoon(who: object, draw: () => void): void {
  pending.set(who, draw);
  schedule();
}

/** It is there no more. */
export function drawNever(who: object): void {
  pending.delete(who);
}

function schedule(): void {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(drawSome);
}

function drawSome(): void {
  isScheduled = false;
  const endMs = performance.now() + BUDGET_MS;
  for (const [who, draw] of pending) {
    pending.delete(who);
    draw();
    if (performance.now() > endMs) break;
  }
  if (pending.size > 0) schedule();
}

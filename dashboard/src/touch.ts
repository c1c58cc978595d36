export interface TouchHandlers {
  /** One finger has moved to the right by so many pixels. */
  readonly onDrag: (px: number) => void;
  /** Two fingers have moved apart to so many times their distance, around a point in pixels of the page. */
  readonly onPinch: (ratio: number, clientX: number) => void;
}

/** A finger that has not moved sideways so far may be about to scroll, or to tap. */
const DRAG_FROM_PX = 8;

/** Fingers nearer to each other than this say nothing about a ratio. */
const LEAST_SPREAD_PX = 20;

/**
 * Follows fingers on an element whose `touch-action` leaves sideways movements to the page. The browser goes on
 * scrolling up and down, and makes a tap a click. @returns ends it
 */
export function followTouch(element: HTMLElement, { onDrag, onPinch }: TouchHandlers): () => void {
  const fingers = new Map<number, number>();
  let startX = 0;
  let isDrag = false;
  const spread = () => {
    const [a = 0, b = 0] = fingers.values();
    return Math.max(LEAST_SPREAD_PX, Math.abs(a - b));
  };
  const onDown = (event: PointerEvent) => {
    if (event.pointerType !== 'touch') return;
    fingers.set(event.pointerId, event.clientX);
    startX = event.clientX;
    isDrag = false;
  };
  const onMove = (event: PointerEvent) => {
    const before = fingers.get(event.pointerId);
    if (before === undefined) return;
    const spreadBefore = spread();
    fingers.set(event.pointerId, event.clientX);
    if (fingers.size === 1) {
      if (isDrag) onDrag(event.clientX - before);
      isDrag ||= Math.abs(event.clientX - startX) > DRAG_FROM_PX;
    } else if (fingers.size === 2) {
      const [a = 0, b = 0] = fingers.values();
      onPinch(spread() / spreadBefore, (a + b) / 2);
    }
  };
  const onEnd = (event: PointerEvent) => {
    fingers.delete(event.pointerId);
    // What is left of two fingers drags from where it is.
    for (const [, x] of fingers) startX = x;
    isDrag = false;
  };
  const stop = new AbortController();
  const { signal } = stop;
  element.addEventListener('pointerdown', onDown, { signal });
  element.addEventListener('pointermove', onMove, { signal });
  for (const name of ['pointerup', 'pointercancel'] as const)
    element.addEventListener(name, onEnd, { signal });
  return () => stop.abort();
}
